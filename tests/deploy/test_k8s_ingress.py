"""The ingresses' streaming settings are what HAProxy and nginx themselves understand, and what streams need."""

from pathlib import Path
from typing import Final

import pytest

from tests.deploy.manifests import one, render
from tests.deploy.tools import run

HAPROXY: Final = """
defaults
  mode http
  timeout connect 5s
  timeout client 60s
frontend in
  bind 127.0.0.1:1
  default_backend lyre
backend lyre
  balance {balance}
  timeout server {timeout}
{snippet}
  server one 127.0.0.1:2 check
  server two 127.0.0.1:3 check
"""

NGINX: Final = """
pid {folder}/pid;
error_log stderr;
events {{}}
http {{
  access_log off;
  upstream lyre {{ {method}; server 127.0.0.1:2 max_fails={fails}; server 127.0.0.1:3 max_fails={fails}; }}
  server {{
    listen 127.0.0.1:1;
    client_max_body_size {body};
    location / {{
      proxy_pass http://lyre;
      proxy_buffering {buffering};
      proxy_read_timeout {timeout};
      proxy_next_upstream {next};
      proxy_next_upstream_tries {tries};
    }}
  }}
}}
"""


def annotations(kind: str) -> dict[str, str]:
    """Of the Ingress, without their prefix."""
    own = one(render(f"h200+weights-pvc+{kind}"), "Ingress")["metadata"]["annotations"]
    return {name.partition("/")[2]: value for name, value in own.items()}


def haproxy_config(folder: Path, snippet: str) -> Path:
    """A configuration with the Ingress' settings where its controller puts them."""
    given = annotations("haproxy")
    file = folder / "haproxy.cfg"
    lines = "".join(f"  {line}\n" for line in snippet.splitlines())
    text = HAPROXY.format(balance=given["load-balance"], timeout=given["timeout-server"], snippet=lines)
    file.write_text(text, encoding="utf-8")
    return file


def test_haproxy(tmp_path: Path) -> None:
    """It takes the settings, without a warning."""
    snippet = annotations("haproxy")["backend-config-snippet"]
    run("haproxy", "-c", "-dW", "-f", haproxy_config(tmp_path, snippet))
    # Only a request that lies in the buffer as a whole is sent to another pod.
    needed = {"option http-no-delay", "option http-buffer-request", "retry-on conn-failure empty-response 503"}
    assert needed <= set(snippet.splitlines())
    assert annotations("haproxy")["load-balance"] == "leastconn"


def test_haproxy_would_refuse(tmp_path: Path) -> None:
    """The check can fail."""
    with pytest.raises(AssertionError, match="http-no-delays"):
        run("haproxy", "-c", "-dW", "-f", haproxy_config(tmp_path, "option http-no-delays"))


def test_nginx(tmp_path: Path) -> None:
    """It takes the settings; POST is among what it asks another pod for."""
    given = annotations("nginx")
    text = NGINX.format(
        folder=tmp_path,
        method=given["lb-method"],
        body=given["client-max-body-size"],
        buffering={"False": "off"}[given["proxy-buffering"]],
        timeout=given["proxy-read-timeout"],
        next=given["proxy-next-upstream"],
        tries=given["proxy-next-upstream-tries"],
        fails=given["max-fails"],
    )
    (tmp_path / "nginx.conf").write_text(text, encoding="utf-8")
    run("nginx", "-t", "-p", tmp_path, "-c", tmp_path / "nginx.conf")
    assert {"http_503", "non_idempotent"} <= set(given["proxy-next-upstream"].split())
    # A full pod stays in: each 503 would take it out, and with all of them out callers get 502.
    assert given["max-fails"] == "0"
    # Not for a timeout: who was silent for so long may be speaking by now.
    assert "timeout" not in given["proxy-next-upstream"].split()


def test_envoy() -> None:
    """Least request, 503 asked elsewhere, streams without an end, and no limit of Envoy's below the pods' own."""
    policy = one(render("gateway"), "BackendTrafficPolicy")["spec"]
    assert policy["loadBalancer"] == {"type": "LeastRequest"}
    assert policy["retry"]["retryOn"]["httpStatusCodes"] == [503]
    assert "retriable-status-codes" in policy["retry"]["retryOn"]["triggers"]
    assert policy["timeout"]["http"]["requestTimeout"] == "0s"
    (rule,) = one(render("gateway"), "HTTPRoute")["spec"]["rules"]
    assert rule["timeouts"] == {"request": "0s"}
    most = one(render("keda"), "ScaledObject")["spec"]["maxReplicaCount"] * (256 + 64)
    assert min(policy["circuitBreaker"][name] for name in ("maxConnections", "maxParallelRequests")) > 4 * most
