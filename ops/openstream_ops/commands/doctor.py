"""`openstream doctor`: what is wrong, and what to do about it."""

import typer

from openstream_ops.options import Json, TokenFile, Url


def doctor(url: Url = None, token_file: TokenFile = None, json: Json = False) -> None:
    """Check node, token, Redis, PostgreSQL, clocks, owners, lag and restarts. Exit code 1 when a check fails."""
    import os

    import anyio

    from openstream_ops import context
    from openstream_ops.diagnosis import diagnose
    from openstream_ops.output import Output

    target = context.resolve(url, token_file, os.environ)
    findings = anyio.run(diagnose, target)
    output = Output(json)
    if output.is_table:
        for one in findings:
            mark = {"ok": "✔", "warning": "!", "failed": "✘", "unknown": "?"}[one.state]
            output.say(f"{mark} {one.check:<14} {one.detail}")
            if one.hint and one.state != "ok":
                output.say(f"  {'':<14} hint: {one.hint}")
    else:
        output.rows([one.to_dict() for one in findings], {})
    failed = [one for one in findings if one.state == "failed"]
    if failed:
        raise typer.Exit(failed[0].exit_code)
