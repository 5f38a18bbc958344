"""The packages that the service needs beyond those of clipzs."""

from importlib import import_module

from clipzs.errors import UsageProblem

NEEDED = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


def check() -> None:
    """See that they are there.

    Raises:
        UsageProblem: one is not.
    """
    for name in NEEDED:
        try:
            import_module(name)
        except ImportError as error:
            raise UsageProblem(f"the server needs {name}", hint="pip install 'clipzs[serve]'") from error
