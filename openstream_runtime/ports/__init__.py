"""What actors see of the world: the log (Redis), the store (PostgreSQL), leases, members, the clock, the numbers.

Every port raises only the errors of `domain.errors`: `Unavailable` when the backend is away and nothing was done,
`OutcomeUnknown` when the answer to a write was lost. Contract tests run each port's fake and its real form through
one suite (tests/contracts).
"""
