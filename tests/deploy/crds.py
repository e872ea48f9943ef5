"""Closed schemas of the fields that our Gateway API and Envoy Gateway objects use: nobody packages those CRDs.

Names, types and values follow gateway.networking.k8s.io/v1 (1.4) and gateway.envoyproxy.io/v1alpha1 (1.5).
"""

from typing import Any, Final

Schema = dict[str, Any]


def _object(required: str = "", **fields: Schema) -> Schema:
    return {
        "type": "object",
        "properties": fields,
        "required": required.split(),
        "additionalProperties": False,
        "minProperties": 1,
    }


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items, "minItems": 1}


def _one_of(*values: str) -> Schema:
    return {"enum": list(values)}


def _kind(version: str, kind: str, spec: Schema) -> Schema:
    metadata = _object("name namespace", name=_NAME, namespace=_NAME)
    return _object(
        "apiVersion kind metadata spec", apiVersion=_one_of(version), kind=_one_of(kind), metadata=metadata, spec=spec
    )


_NAME: Final = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", "maxLength": 253}
_HOST: Final = {
    "type": "string",
    "pattern": r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
}
_PORT: Final = {"type": "integer", "minimum": 1, "maximum": 65535}
_DURATION: Final = {"type": "string", "pattern": r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"}
_COUNT: Final = {"type": "integer", "minimum": 0, "maximum": 2**32 - 1}
_GATEWAY: Final = "gateway.networking.k8s.io/v1"
_ENVOY: Final = "gateway.envoyproxy.io/v1alpha1"
_TRIGGERS: Final = (
    *("5xx", "gateway-error", "reset", "connect-failure", "retriable-4xx", "refused-stream"),
    *("retriable-status-codes", "cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"),
)
_LISTENER: Final = _object(
    "name protocol port",
    name=_NAME,
    protocol=_one_of("HTTP", "HTTPS"),
    port=_PORT,
    hostname=_HOST,
    tls=_object(
        "certificateRefs",
        mode=_one_of("Terminate"),
        certificateRefs=_list(_object("name", kind=_one_of("Secret"), name=_NAME)),
    ),
    allowedRoutes=_object(namespaces=_object(**{"from": _one_of("Same", "All", "Selector")})),
)
_RULE: Final = _object(
    "backendRefs",
    matches=_list(
        _object(path=_object(type=_one_of("Exact", "PathPrefix"), value={"type": "string", "pattern": "^/"}))
    ),
    backendRefs=_list(_object("name port", name=_NAME, port=_PORT)),
    timeouts=_object(request=_DURATION, backendRequest=_DURATION),
)
_RETRY: Final = _object(
    numRetries={"type": "integer", "minimum": 0},
    retryOn=_object(
        triggers=_list(_one_of(*_TRIGGERS)),
        httpStatusCodes=_list({"type": "integer", "minimum": 100, "exclusiveMaximum": 600}),
    ),
    perRetry=_object(timeout=_DURATION, backOff=_object(baseInterval=_DURATION, maxInterval=_DURATION)),
)


def _targets(kind: str) -> Schema:
    return _list(_object("group kind name", group=_one_of("gateway.networking.k8s.io"), kind=_one_of(kind), name=_NAME))


SCHEMAS: Final[dict[str, Schema]] = {
    "Gateway": _kind(
        _GATEWAY,
        "Gateway",
        _object("gatewayClassName listeners", gatewayClassName=_NAME, listeners=_list(_LISTENER)),
    ),
    "HTTPRoute": _kind(
        _GATEWAY,
        "HTTPRoute",
        _object(
            "parentRefs rules",
            parentRefs=_list(_object("name", name=_NAME, sectionName=_NAME)),
            hostnames=_list(_HOST),
            rules=_list(_RULE),
        ),
    ),
    "BackendTrafficPolicy": _kind(
        _ENVOY,
        "BackendTrafficPolicy",
        _object(
            "targetRefs",
            targetRefs=_targets("HTTPRoute"),
            loadBalancer=_object("type", type=_one_of("ConsistentHash", "LeastRequest", "Random", "RoundRobin")),
            retry=_RETRY,
            circuitBreaker=_object(
                maxConnections=_COUNT, maxPendingRequests=_COUNT, maxParallelRequests=_COUNT, maxParallelRetries=_COUNT
            ),
            timeout=_object(
                tcp=_object(connectTimeout=_DURATION),
                http=_object(
                    connectionIdleTimeout=_DURATION, maxConnectionDuration=_DURATION, requestTimeout=_DURATION
                ),
            ),
        ),
    ),
    "ClientTrafficPolicy": _kind(
        _ENVOY,
        "ClientTrafficPolicy",
        _object(
            "targetRefs",
            targetRefs=_targets("Gateway"),
            timeout=_object(
                http=_object(requestReceivedTimeout=_DURATION, idleTimeout=_DURATION, streamIdleTimeout=_DURATION)
            ),
        ),
    ),
}
