"""`read`: a route that only tells something, by GET or, without the body, by HEAD."""

from functools import partial

from litestar import route
from litestar.enums import HttpMethod

read = partial(route, http_method=[HttpMethod.GET, HttpMethod.HEAD], status_code=200)
