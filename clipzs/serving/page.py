"""The page at `/`: one file, the same for everyone, that asks this service and nobody else."""

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse

from clipzs import defaults, pages
from clipzs.paths import IMAGE_SUFFIXES


def routes() -> APIRouter:
    """`GET /`."""
    suffixes = sorted(IMAGE_SUFFIXES)
    content = pages.filled(
        "serve",
        {
            "suffixes": " ".join(suffixes),
            "accepted": "".join(f",{suffix}" for suffix in suffixes),
            "decimals": str(defaults.DECIMALS),
            "threshold": str(defaults.THRESHOLD),
        },
    )
    policy = pages.policy("serve", images="blob: data:", connect_src="'self'", frame_ancestors="'none'")
    router = APIRouter()

    @router.get("/", response_class=HTMLResponse, tags=["Server"])
    async def page() -> Response:
        """The page."""
        return Response(content, media_type="text/html", headers={"Content-Security-Policy": policy})

    return router
