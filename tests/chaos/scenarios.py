"""Every scenario of the suite: its name, its fault, and what the fault may cost."""

from __future__ import annotations

from chaos import faults
from chaos.stage import Scenario

#: What is acknowledged is on its disk: otherwise a slow disk lets Redis be behind by what it has not written yet.
SYNCED = {"appendfsync": "always"}

SCENARIOS = [
    Scenario("none", faults.nothing, calm=True, unknowns=False),
    Scenario("node killed", faults.nodes_are_killed, nodes=3),
    Scenario("node stopped for longer than its lease", faults.a_node_sleeps_through_its_lease),
    Scenario("nodes replaced one by one", faults.nodes_are_replaced_one_by_one, nodes=3, unknowns=False),
    Scenario("node leaves, node joins", faults.a_node_leaves_and_another_joins, nodes=3, unknowns=False),
    Scenario("clocks of nodes jump", faults.the_clock_of_a_node_jumps, oddity="clock:{folder}/clock"),
    Scenario("clients killed", faults.clients_are_killed),
    Scenario("redis killed", faults.redis_is_killed, valkey=SYNCED),
    Scenario("redis stands still", faults.redis_stands_still, unknowns=True),
    Scenario("redis refuses writes", faults.redis_refuses_writes, unknowns=False),
    Scenario("redis emptied", faults.redis_is_emptied, ack="persisted", emptied=True),
    Scenario(
        "redis emptied, an hour behind", faults.redis_comes_back_empty_and_an_hour_behind, ack="persisted", emptied=True
    ),
    Scenario("clock of redis goes back", faults.the_clock_of_redis_goes_back, unknowns=False),
    Scenario("postgresql killed", faults.postgresql_is_killed, unknowns=False),
    Scenario("postgresql stands still", faults.postgresql_stands_still, unknowns=False),
    Scenario("postgresql away", faults.postgresql_is_away_for_long, unknowns=False),
    Scenario("postgresql slow, then full", faults.postgresql_is_slow_and_then_full, unknowns=False),
    Scenario("links to redis slow", faults.links_to_redis_are_slow, links=True),
    Scenario("links to redis stall one way", faults.answers_of_redis_stall, links=True, unknowns=True),
    Scenario("links to redis cut", faults.links_to_redis_are_cut, links=True, unknowns=True),
    Scenario("links to postgresql slow", faults.links_to_postgresql_are_slow, links=True, unknowns=False),
    Scenario("links to postgresql stall one way", faults.answers_of_postgresql_stall, links=True, unknowns=False),
    Scenario("links to postgresql cut", faults.links_to_postgresql_are_cut, links=True, unknowns=False),
]
FIVE = Scenario(
    "five nodes: asleep for 60 s, killed, joined", faults.one_of_five_sleeps_one_dies_and_one_joins, nodes=5,
    deadline_s=240.0,
)  # fmt: skip
OVERLAPPING = Scenario("all at once", faults.faults_overlap, nodes=3, links=True, valkey=SYNCED, deadline_s=200.0)


def named(name: str) -> Scenario:
    return next(scenario for scenario in SCENARIOS if scenario.name == name)
