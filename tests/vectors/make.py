#!/usr/bin/env python3
"""Writes authorize.ndjson, parse-id.ndjson and documents.ndjson beside itself.

Expected answers do not come from Portcullis: most are written down here case by
case, the random ones come from `model`, which says the rules of
`decision-semantics.md` once more, in another language and without an index.
Running it again changes nothing: the random numbers are seeded.
"""

import json
import pathlib
import random

import request_vectors

HERE = pathlib.Path(__file__).parent
T = "11111111-2222-3333-4444-555555555555.consul"
BETA = "beta.consul"
PEERS = {
    "beta": {"trust_domain": BETA},
    "gamma": {"trust_domain": "gamma.consul", "exported_partition": "ap1"},
}
JWT = {"Providers": [{"Name": "okta"}]}


def svc(name, ns="default", ap=None, td=T, dc="dc1"):
    return f"spiffe://{td}{'/ap/' + ap if ap else ''}/ns/{ns}/dc/{dc}/svc/{name}"


def rule(source, action=None, to="db", **more):
    """An intention as Consul writes it; `source` is `name` or `ns/name`, `to` likewise."""
    ns, name = source.split("/") if "/" in source else ("default", source)
    to_ns, to_name = to.split("/") if "/" in to else ("default", to)
    fields = {
        "SourceNS": ns, "SourceName": name,
        "DestinationNS": to_ns, "DestinationName": to_name,
        "SourceType": "consul",
    }
    if action:
        fields["Action"] = action
    fields.update(more)
    return fields


def permissions(*actions):
    return [{"Action": a, "HTTP": {"PathPrefix": f"/{i}"}} for i, a in enumerate(actions)]


class File:
    def __init__(self, name):
        self.name, self.lines, self.ids = name, [], set()

    def add(self, line):
        name = line["question"]["id"] if "question" in line else line["id"]
        assert name not in self.ids, name
        self.ids.add(name)
        self.lines.append(json.dumps(line, ensure_ascii=True))

    def write(self):
        (HERE / self.name).write_text("\n".join(self.lines) + "\n")
        print(f"{self.name}: {len(self.lines)} lines")


AUTHORIZE = File("authorize.ndjson")
ALLOW, DENY = "allow", "deny"


def ask(name, intentions, expected, client=None, uris=None, default=DENY, raw=None, target="db", forwarded=None, changes=None, **more):
    """One question; `expected` is (effect, code), (effect, code, intention) or with the permission.

    `forwarded` is the target that goes upstream, if it is not the one of the request, and
    `changes` what changes in its headers: pairs of a name and its new value, or null."""
    question = {
        "id": name, "ask": "authorize", "intentions": intentions, "default_policy": default,
        "trust_domain": T, "target": target,
        "client_uris": uris if uris is not None else [svc("web") if client is None else client],
    }
    question.update(more)
    effect, code, *index = expected
    because = {"code": code}
    if index:
        because["intention"] = index[0]
    if len(index) > 1:
        because["permission"] = index[1]
    answer = {"effect": effect, "because": because}
    if forwarded is not None and effect in (ALLOW, "redirect"):
        answer["forwarded_path"] = forwarded
    elif effect == ALLOW and "request" in more:
        answer["forwarded_path"] = more["request"]["path"]
    if changes:
        answer["forwarded_headers"] = changes
    line = {"question": question, "answer": answer}
    if raw is not None:
        del question["intentions"]
        line["intentions_json"] = raw
    AUTHORIZE.add(line)


def both(name, intentions, code, index=None, **more):
    """The same denial under either default policy."""
    for default in (ALLOW, DENY):
        expected = (DENY, code) if index is None else (DENY, code, index)
        ask(f"{name} ({default})", intentions, expected, default=default, **more)


# --- defaults -----------------------------------------------------------------
for default in (ALLOW, DENY):
    for protocol in ("tcp", "http", "http2", "grpc"):
        for label, none in (("null", None), ("empty", [])):
            ask(f"no intentions {label} {default} {protocol}", none, (default, "default-policy"),
                default=default, protocol=protocol)
    ask(f"no intention covers web {default}", [rule("api", ALLOW), rule("api2", DENY)],
        (default, "default-policy"), default=default)
    for matching in ("strict", "envoy"):
        ask(f"no intentions {matching} {default}", None, (default, "default-policy"),
            default=default, matching=matching)

# --- precedence: every level against every lower one --------------------------
SOURCES = ("default/web", "default/*", "*/*")
LEVELS = [(s, d) for d in ("default/db", "default/*", "*/*") for s in SOURCES]
for high in range(9):
    for action in (ALLOW, DENY):
        other = DENY if action == ALLOW else ALLOW
        (source, to) = LEVELS[high]
        ask(f"level {9 - high} alone {action}", [rule(source, action, to)], (action, "intention", 0),
            default=other)
        for low in range(high + 1, 9):
            lower_source, lower_to = LEVELS[low]
            ask(f"level {9 - high} {action} beats {9 - low}",
                [rule(lower_source, other, lower_to), rule(source, action, to)],
                (action, "intention", 0), default=other)
ladder = [rule(s, ALLOW if i % 2 else DENY, d) for i, (s, d) in enumerate(LEVELS)]
for first in range(9):
    rest = ladder[first:]
    ask(f"ladder from level {9 - first}", list(reversed(rest)),
        (ALLOW if first % 2 else DENY, "intention", 0), default=DENY)
ask("levels that do not cover are passed", [
    rule("api", DENY), rule("default/*", DENY, "*/*"), rule("web", ALLOW, "default/*"), rule("other/*", DENY)],
    (ALLOW, "intention", 2))
ask("a stated precedence does not count", [rule("web", ALLOW, Precedence=1), rule("*", DENY, Precedence=9)],
    (ALLOW, "intention", 0))
ask("exact destination beats exact source", [rule("web", ALLOW, "default/*"), rule("*", DENY)],
    (DENY, "intention", 0))
ask("exact destination beats exact source, allow", [rule("web", DENY, "default/*"), rule("*", ALLOW)],
    (ALLOW, "intention", 0), default=DENY)

# --- ties: the documented order by names --------------------------------------
ask("local before peer at equal level", [
    rule("web", DENY, SourcePeer="beta"), rule("web", ALLOW), rule("api", DENY)],
    (ALLOW, "intention", 1), peers=PEERS)
ask("the peer's own rule has its own place", [
    rule("web", DENY, SourcePeer="beta"), rule("web", ALLOW), rule("api", DENY)],
    (DENY, "intention", 2), client=svc("web", td=BETA), peers=PEERS)
ask("partitions sort before namespaces", [
    rule("web", ALLOW, SourcePartition="zeta"), rule("zz", DENY), rule("aa", DENY)],
    (ALLOW, "intention", 2), client=svc("web", ap="zeta"))
ask("namespaces sort before names", [rule("b/web", ALLOW), rule("c/aaa", DENY), rule("b/aaa", DENY)],
    (ALLOW, "intention", 1), client=svc("web", ns="b"))
ask("equal names: the stricter counts", [rule("web", ALLOW), rule("web", DENY)], (DENY, "intention", 0))
ask("equal names: the stricter counts, other order", [rule("web", DENY), rule("web", ALLOW)],
    (DENY, "intention", 0))
ask("equal names in another case of the destination", [rule("web", ALLOW, "DB"), rule("web", DENY, "db")],
    (DENY, "intention", 0))
ask("equal names: permissions before allow", [rule("web", ALLOW), rule("web", Permissions=permissions(ALLOW))],
    (DENY, "l7-intention-on-tcp", 0), default=ALLOW)

# --- near misses of the source's name -----------------------------------------
for other in ("we", "webb", "xweb", "web-", "web.", "w.b", "web_", "web0", "bew", "api"):
    ask(f"allow web is not allow {other}", [rule("web", ALLOW)], (DENY, "default-policy"), client=svc(other))
    ask(f"deny web is not deny {other}", [rule("web", DENY)], (ALLOW, "default-policy"),
        client=svc(other), default=ALLOW)
ask("a dot in a source is a dot", [rule("web.v1", ALLOW)], (DENY, "default-policy"), client=svc("webxv1"))
ask("a dot in a source is itself", [rule("web.v1", ALLOW)], (ALLOW, "intention", 0), client=svc("web.v1"))
ask("a source that is a regular expression matches nobody", [rule("[^/]+", ALLOW), rule(".+", ALLOW)],
    (DENY, "default-policy"))
ask("a plus does not repeat", [rule("w+eb", DENY)], (ALLOW, "default-policy"), client=svc("wweb"), default=ALLOW)
for variant in ("WEB", "Web", "wEb"):
    ask(f"allow: {variant} is not web", [rule("web", ALLOW)], (DENY, "default-policy"), client=svc(variant))
    ask(f"strict: deny web covers {variant}", [rule("web", DENY)], (DENY, "intention", 0),
        client=svc(variant), default=ALLOW)
    ask(f"strict: deny {variant} covers web", [rule(variant, DENY)], (DENY, "intention", 0), default=ALLOW)
    ask(f"envoy: deny web does not cover {variant}", [rule("web", DENY)], (ALLOW, "default-policy"),
        client=svc(variant), default=ALLOW, matching="envoy")
    ask(f"strict: deny web before allow all, {variant}", [rule("web", DENY), rule("*", ALLOW)],
        (DENY, "intention", 0), client=svc(variant))
    ask(f"envoy: allow all for {variant}", [rule("web", DENY), rule("*", ALLOW)],
        (ALLOW, "intention", 1), client=svc(variant), matching="envoy")
    ask(f"strict: unreadable web covers {variant}", [rule("web", "log")], (DENY, "unreadable-rule", 0),
        client=svc(variant), default=ALLOW)
    ask(f"strict: permissions of web cover {variant}", [rule("web", Permissions=permissions(ALLOW))],
        (DENY, "l7-intention-on-tcp", 0), client=svc(variant), default=ALLOW)
ask("strict: deny covers a case variant of the namespace", [rule("ns1/web", DENY)], (DENY, "intention", 0),
    client=svc("web", ns="NS1"), default=ALLOW)
ask("envoy: a case variant of the namespace is another", [rule("ns1/web", DENY)], (ALLOW, "default-policy"),
    client=svc("web", ns="NS1"), default=ALLOW, matching="envoy")
ask("an exact allow before a denial of its case variant", [rule("WEB", ALLOW), rule("web", DENY)],
    (ALLOW, "intention", 0), client=svc("WEB"))
ask("strict: a denial sorted first covers the case variant's allow", [rule("WEB", DENY), rule("web", ALLOW)],
    (DENY, "intention", 0))
ask("envoy: only the exact rule", [rule("WEB", DENY), rule("web", ALLOW)], (ALLOW, "intention", 1), matching="envoy")

# --- namespaces and partitions -------------------------------------------------
ask("another namespace is another service", [rule("web", ALLOW)], (DENY, "default-policy"), client=svc("web", ns="other"))
ask("a rule for a namespace", [rule("other/web", ALLOW)], (ALLOW, "intention", 0), client=svc("web", ns="other"))
ask("all of a namespace", [rule("other/*", ALLOW)], (ALLOW, "intention", 0), client=svc("x", ns="other"))
ask("all of a namespace is not all", [rule("default/*", ALLOW)], (DENY, "default-policy"), client=svc("web", ns="other"))
ask("all namespaces", [rule("*/*", ALLOW)], (ALLOW, "intention", 0), client=svc("web", ns="other"))
ask("a namespace called as a service", [rule("web", ALLOW)], (DENY, "default-policy"), client=svc("default", ns="web"))
ask("absent names of the rule are default", [{"SourceName": "web", "DestinationName": "db", "Action": ALLOW}],
    (ALLOW, "intention", 0))
ask("another partition is another service", [rule("web", ALLOW)], (DENY, "default-policy"), client=svc("web", ap="ap1"))
ask("a rule for a partition", [rule("web", ALLOW, SourcePartition="ap1")], (ALLOW, "intention", 0), client=svc("web", ap="ap1"))
ask("partitions have no case", [rule("web", ALLOW, SourcePartition="Ap1")], (ALLOW, "intention", 0), client=svc("web", ap="aP1"))
ask("the default partition may be written", [rule("web", ALLOW)], (ALLOW, "intention", 0), client=svc("web", ap="default"))
ask("wildcards stay in their partition", [rule("*/*", DENY)], (ALLOW, "default-policy"), client=svc("web", ap="ap1"), default=ALLOW)
ask("the datacenter is not compared", [rule("web", ALLOW)], (ALLOW, "intention", 0), client=svc("web", dc="elsewhere"))

# --- destinations ---------------------------------------------------------------
for target in ("DB", "Db"):
    ask(f"destinations have no case: {target}", [rule("web", ALLOW)], (ALLOW, "intention", 0), target=target)
ask("destinations of rules have no case", [rule("web", ALLOW, "Db")], (ALLOW, "intention", 0))
ask("a rule about another service never decides", [rule("web", DENY, "api"), rule("*", ALLOW)],
    (ALLOW, "intention", 1))
ask("a rule about another service keeps its place", [rule("web", ALLOW, "api")], (DENY, "default-policy"))
ask("a rule about another namespace", [rule("web", ALLOW, "other/db")], (DENY, "default-policy"))
ask("a rule about another partition", [rule("web", ALLOW, DestinationPartition="ap1")], (DENY, "default-policy"))
ask("a target in a namespace", [rule("web", ALLOW, "other/db")], (ALLOW, "intention", 0), target_namespace="other")
ask("a target in a partition", [rule("web", ALLOW, DestinationPartition="AP1")], (ALLOW, "intention", 0), target_partition="ap1")
for target in ("", "d b", "db\n", "d\u00e9", "\u212adb", "*", "a/db", "..", "db%00", "x" * 256):
    ask(f"malformed target {target[:20]!r}", None, (DENY, "malformed-target"), default=ALLOW, target=target)

# --- L7 and JWT -----------------------------------------------------------------
for actions in ((ALLOW,), (DENY,), (DENY, ALLOW)):
    l7 = [rule("web", Permissions=permissions(*actions)), rule("*", ALLOW)]
    both(f"permissions {'+'.join(actions)} on tcp", l7, "l7-intention-on-tcp", 0)
    for protocol in ("http", "http2", "grpc"):
        both(f"permissions {'+'.join(actions)} on {protocol} without a request", l7, "request-required", 0,
             protocol=protocol)
    ask(f"permissions {'+'.join(actions)} of another source", l7, (ALLOW, "intention", 1), client=svc("api"))
for protocol in ("tcp", "http"):
    with_jwt = [rule("web", ALLOW, JWT=JWT), rule("*", ALLOW)]
    both(f"allow with JWT on {protocol}", with_jwt, "jwt-on-tcp" if protocol == "tcp" else "request-required", 0,
         protocol=protocol)
    with_jwt = [rule("web", DENY, JWT=JWT), rule("*", ALLOW)]
    both(f"deny with JWT on {protocol}", with_jwt, "intention" if protocol == "tcp" else "request-required", 0,
         protocol=protocol)
both("allow with a JWT of no provider", [rule("web", ALLOW, JWT={})], "jwt-on-tcp", 0)
both("permissions with JWT at both levels", [rule("web", JWT=JWT, Permissions=[
    {"Action": ALLOW, "HTTP": {"PathExact": "/x"}, "JWT": {"Providers": [
        {"Name": "okta", "VerifyClaims": [{"Path": ["aud"], "Value": "z"}]}]}}])], "l7-intention-on-tcp", 0)
GET = {"method": "GET", "path": "/v1/items?x=1", "headers": [["host", "db"], ["x-a", "\u00ff\u0080"]]}
for protocol in ("http", "http2", "grpc"):
    for version in ("1.1", "2"):
        ask(f"a request to {protocol} by {version}", [rule("web", ALLOW)], (ALLOW, "intention", 0),
            protocol=protocol, request=GET, http_version=version)
    both(f"a request to {protocol} of a foreign client", [rule("web", ALLOW)], "foreign-trust-domain",
         protocol=protocol, request=GET, client=svc("web", td="other.consul"))
ask("a request to tcp is a connection", [rule("web", ALLOW)], (ALLOW, "intention", 0), request=GET)
ask("a request to tcp is a connection, denied", [rule("web", DENY)], (DENY, "intention", 0), request=GET, default=ALLOW)
for protocol in ("http", "http2", "grpc"):
    ask(f"an L4 allow holds for {protocol}", [rule("web", ALLOW)], (ALLOW, "intention", 0), protocol=protocol)
    ask(f"an L4 denial holds for {protocol}", [rule("web", DENY)], (DENY, "intention", 0), protocol=protocol, default=ALLOW)

# --- who the client is ----------------------------------------------------------
both("no identity", [rule("*", ALLOW)], "no-identity", uris=[])
both("two identities", [rule("*", ALLOW)], "several-identities", uris=[svc("web"), svc("api")])
both("the same identity twice", [rule("*", ALLOW)], "several-identities", uris=[svc("web"), svc("web")])
both("an identity and something else", [rule("*", ALLOW)], "several-identities", uris=["https://a.example", svc("web")])
for number, uri in enumerate((
    "", "web", "https://t/ns/default/dc/dc1/svc/web", svc("web").replace("spiffe", "SPIFFE"),
    svc("web", td=T.upper()), svc("web") + "/", svc("web") + "?x=1", svc("web") + "#x", svc("w%65b"), svc("a%2Fb"),
    svc("web", td=T + ":8443"), svc("web", td="root@" + T), svc("web", td=""), svc(""), svc(".."), svc("*"), svc("w b"),
    svc("we\u00efb"), svc("web\u0000"), svc("web\r\n"), svc("web\u2028"), svc("web\u001b[31m"), f"spiffe://{T}//ns/default/dc/dc1/svc/web",
    f"spiffe:{T}/ns/default/dc/dc1/svc/web", "spiffe://", svc("x" * 2048), " " + svc("web"),
)):
    both(f"malformed identity {number}", [rule("*", ALLOW), rule("*/*", ALLOW, "*/*")], "malformed-identity", client=uri)
for td in ("other.consul", T.replace(".", "x"), T + "x", "x" + T, T[1:], T.replace("-", ".", 1), "consul"):
    both(f"foreign trust domain {td}", [rule("*", ALLOW)], "foreign-trust-domain", client=svc("web", td=td))
    both(f"foreign trust domain {td} beside peers", [rule("*", ALLOW)], "foreign-trust-domain",
         client=svc("web", td=td), peers=PEERS)
for kind in ("/agent/client/dc/dc1/id/node", "/ap/ap1/agent/client/dc/dc1/id/node", "/agent/server/dc/dc1",
             "/gateway/mesh/dc/dc1", "/ap/ap1/gateway/mesh/dc/dc1", "", "/anything", "/ns/default/dc/dc1/svc/web/x",
             "/NS/default/dc/dc1/SVC/web", "/ns/default/svc/web", "/dc/dc1/ns/default/svc/web"):
    both(f"not a service: {kind or 'trust domain'}", [rule("*", ALLOW)], "not-a-service", client=f"spiffe://{T}{kind}")
both("a peer's gateway", [rule("*", ALLOW)], "not-a-service", client=f"spiffe://{BETA}/gateway/mesh/dc/d", peers=PEERS)
XFCC = f"By=spiffe://{T}/gateway/mesh/dc/dc1;Hash=00;URI={svc('web', td=BETA)}"
both("via gateway on tcp", [rule("web", ALLOW, SourcePeer="beta")], "not-a-service",
     client=f"spiffe://{T}/gateway/mesh/dc/dc1", via_gateway=XFCC, peers=PEERS)
ask("via gateway with a request", [rule("web", ALLOW, SourcePeer="beta")], (ALLOW, "intention", 0), protocol="http",
     client=f"spiffe://{T}/gateway/mesh/dc/dc1", via_gateway=XFCC, peers=PEERS, request=GET)
ask("XFCC of one who is no gateway does not count", [rule("web", ALLOW, SourcePeer="beta")], (DENY, "default-policy"),
    client=svc("api"), via_gateway=XFCC, peers=PEERS)

# --- peers ----------------------------------------------------------------------
PEER_WEB = svc("web", td=BETA)
ask("a peer's service by its rule", [rule("web", ALLOW, SourcePeer="beta")], (ALLOW, "intention", 0), client=PEER_WEB, peers=PEERS)
ask("a peer's rule does not cover ours", [rule("web", ALLOW, SourcePeer="beta")], (DENY, "default-policy"), peers=PEERS)
ask("our rule does not cover a peer's", [rule("web", ALLOW), rule("*", ALLOW), rule("*/*", ALLOW)], (DENY, "default-policy"),
    client=PEER_WEB, peers=PEERS)
ask("our denial does not cover a peer's", [rule("web", DENY), rule("*/*", DENY)], (ALLOW, "default-policy"),
    client=PEER_WEB, peers=PEERS, default=ALLOW)
ask("another peer's rule", [rule("web", ALLOW, SourcePeer="gamma")], (DENY, "default-policy"), client=PEER_WEB, peers=PEERS)
ask("two peers of the same name, beta", [rule("web", ALLOW, SourcePeer="beta"), rule("web", DENY, SourcePeer="gamma")],
    (ALLOW, "intention", 0), client=PEER_WEB, peers=PEERS)
ask("two peers of the same name, gamma", [rule("web", ALLOW, SourcePeer="beta"), rule("web", DENY, SourcePeer="gamma")],
    (DENY, "intention", 1), client=svc("web", td="gamma.consul", ap="ap1"), peers=PEERS)
ask("all of a peer", [rule("*", ALLOW, SourcePeer="beta")], (ALLOW, "intention", 0), client=svc("x", td=BETA), peers=PEERS)
ask("a peer's exact rule before its wildcard", [rule("*", ALLOW, SourcePeer="beta"), rule("web", DENY, SourcePeer="beta")],
    (DENY, "intention", 0), client=PEER_WEB, peers=PEERS)
both("the partition that a peer does not export", [rule("*", ALLOW, SourcePeer="gamma")], "foreign-trust-domain",
     client=svc("web", td="gamma.consul"), peers=PEERS)
both("a peer that is not loaded", [rule("web", ALLOW, SourcePeer="beta")], "foreign-trust-domain", client=PEER_WEB)
ask("an allow for an unloaded peer matches nobody", [rule("*", ALLOW, SourcePeer="gone")], (DENY, "default-policy"),
    client=PEER_WEB, peers=PEERS)
both("a denial of an unloaded peer denies every peer", [rule("x", DENY, SourcePeer="gone")], "peer-without-bundle", 0,
     client=PEER_WEB, peers=PEERS)
both("a denial of an unloaded peer comes before a peer's allow",
     [rule("web", ALLOW, SourcePeer="beta"), rule("*", DENY, SourcePeer="gone")], "peer-without-bundle", 1,
     client=PEER_WEB, peers=PEERS)
both("an unreadable rule about an unloaded peer denies every peer", [rule("x", "log", SourcePeer="gone")],
     "peer-without-bundle", 0, client=PEER_WEB, peers=PEERS)
both("permissions about an unloaded peer on tcp", [rule("x", SourcePeer="gone", Permissions=permissions(ALLOW))],
     "peer-without-bundle", 0, client=PEER_WEB, peers=PEERS)
ask("a denial of an unloaded peer leaves ours alone", [rule("*", DENY, SourcePeer="gone"), rule("web", ALLOW)],
    (ALLOW, "intention", 0), peers=PEERS)
ask("a local rule cannot take a peer's name", [rule("beta", ALLOW)], (DENY, "default-policy"), client=PEER_WEB, peers=PEERS)

# --- what cannot be read ---------------------------------------------------------
UNREADABLE = {
    "action in capitals": rule("web", "ALLOW"), "unknown action": rule("web", "log"), "no action": rule("web"),
    "action of another type": rule("web", True), "action and permissions": rule("web", ALLOW, Permissions=permissions(ALLOW)),
    "empty permissions": rule("web", Permissions=[]), "permissions of another type": rule("web", Permissions={}),
    "unknown permission field": rule("web", Permissions=[{"Action": ALLOW, "HTTP": {"PathPrefix": "/"}, "GRPC": {}}]),
    "unknown HTTP field": rule("web", Permissions=[{"Action": ALLOW, "HTTP": {"PathSuffix": "/"}}]),
    "unknown permission action": rule("web", Permissions=[{"Action": "maybe", "HTTP": {"PathPrefix": "/"}}]),
    "permission without HTTP": rule("web", Permissions=[{"Action": ALLOW}]),
    "two kinds of path": rule("web", Permissions=[{"Action": ALLOW, "HTTP": {"PathPrefix": "/", "PathExact": "/"}}]),
    "unknown method": rule("web", Permissions=[{"Action": ALLOW, "HTTP": {"Methods": ["FETCH"]}}]),
    "header without a matcher": rule("web", Permissions=[{"Action": ALLOW, "HTTP": {"Header": [{"Name": "x"}]}}]),
    "header with two matchers": rule("web", Permissions=[{"Action": ALLOW, "HTTP": {"Header": [{"Name": "x", "Exact": "a", "Prefix": "b"}]}}]),
    "unknown JWT field": rule("web", ALLOW, JWT={"Provider": []}), "JWT of another type": rule("web", ALLOW, JWT="okta"),
    "unknown structure": rule("web", ALLOW, Conditions={"after": "noon"}),
    "sameness group": rule("web", ALLOW, SourceSamenessGroup="all"),
}
for label, bad in UNREADABLE.items():
    both(f"unreadable: {label}", [bad, rule("*", ALLOW)], "unreadable-rule", 0)
    ask(f"unreadable: {label}, another source", [bad, rule("*", ALLOW)], (ALLOW, "intention", 1), client=svc("api"))
EVERYBODY = {
    "no object": 7, "null": None, "a list": [], "no source": {"DestinationName": "db", "Action": ALLOW},
    "source of another type": {**rule("web", ALLOW), "SourceName": ["web"]},
    "unknown source type": rule("web", ALLOW, SourceType="vm"),
    "partial wildcard": rule("we*", ALLOW), "one name everywhere": rule("*/web", ALLOW),
    "namespace of another type": {**rule("web", ALLOW), "SourceNS": 7}, "peer wildcard": rule("web", ALLOW, SourcePeer="*"),
    "peer and partition": rule("web", ALLOW, SourcePeer="beta", SourcePartition="ap1"),
    "unknown source field": rule("web", ALLOW, SourceRegion="eu"), "source in another case": rule("web", ALLOW, sourcename="api"),
}
for label, bad in EVERYBODY.items():
    both(f"unreadable source: {label}", [bad, rule("web", ALLOW)], "unreadable-rule", 0)
    both(f"unreadable source: {label}, another client", [bad, rule("api", ALLOW)], "unreadable-rule", 0, client=svc("api"))
HERE_TOO = {
    "no destination": {"SourceName": "web", "Action": ALLOW}, "destination of another type": {**rule("web", ALLOW), "DestinationName": 7},
    "partial wildcard": rule("web", ALLOW, "d*"), "unknown destination field": rule("web", ALLOW, "api", DestinationPort=80),
}
for label, bad in HERE_TOO.items():
    both(f"unreadable destination: {label}", [bad, rule("*", ALLOW)], "unreadable-rule", 0)
    ask(f"unreadable destination: {label}, another client", [bad, rule("*", ALLOW)], (ALLOW, "intention", 1), client=svc("api"))
WEB = '"SourceName":"web","DestinationName":"db"'
for label, fields in {
    "action twice": f'{WEB},"Action":"deny","Action":"allow"', "action twice, other order": f'{WEB},"Action":"allow","Action":"deny"',
    "action in two cases": f'{WEB},"Action":"allow","action":"deny"', "action escaped": f'{WEB},"Action":"deny","\\u0041ction":"allow"',
    "action with a long s in permissions": f'{WEB},"Action":"allow","Permi\\u017fsions":[]',
    "permissions twice": f'{WEB},"Permissions":[],"Permissions":[{{"Action":"allow","HTTP":{{"PathPrefix":"/"}}}}]',
    "path twice": f'{WEB},"Permissions":[{{"Action":"deny","HTTP":{{"PathPrefix":"/a","PathPrefix":"/b"}}}}]',
    "a number beyond all bounds": f'{WEB},"Action":1e999', "half a surrogate": f'{WEB},"Action":"\\ud800"',
    "depth": f'{WEB},"Action":{"[" * 5000}{"]" * 5000}',
}.items():
    both(f"unreadable: {label}", None, "unreadable-rule", 0, raw=f"[{{{fields}}}]")
for label, fields in {
    "source twice": '"SourceName":"api","SourceName":"web","DestinationName":"db","Action":"allow"',
    "namespace in two cases": '"SourceName":"web","SourceNS":"a","sourcens":"default","DestinationName":"db","Action":"allow"',
}.items():
    both(f"unreadable: {label}", None, "unreadable-rule", 0, raw=f"[{{{fields}}}]", client=svc("other"))
for label, fields in {
    "description twice": '"Description":"a","Description":"b"', "description in lower case": '"description":"a"', "meta of another type": '"Meta":7',
    "precedence as text": '"Precedence":"9"', "an unknown word": '"UpdatedBy":"x"', "an empty peer": '"SourcePeer":""',
    "null permissions": '"Permissions":null', "empty permissions": '"Permissions":[]', "null JWT": '"JWT":null',
}.items():
    ask(f"only descriptive: {label}", None, (ALLOW, "intention", 0), raw=f'[{{{WEB},"Action":"allow",{fields}}}]')

# --- Consul's own replies, and the worked examples that L4 can show ---------------
DEST_DB = '[{"Description":"d","SourceNS":"default","SourceName":"web","DestinationNS":"default","DestinationName":"db","SourceType":"consul","Action":"allow","Precedence":9,"CreateIndex":28,"ModifyIndex":29},{"SourceNS":"default","SourceName":"*","DestinationNS":"default","DestinationName":"db","SourceType":"consul","Action":"deny","Precedence":8,"CreateIndex":28,"ModifyIndex":29},{"SourceNS":"default","SourceName":"web","DestinationNS":"default","DestinationName":"*","SourceType":"consul","Action":"deny","Precedence":6,"CreateIndex":30,"ModifyIndex":31},{"SourceNS":"default","SourceName":"*","DestinationNS":"default","DestinationName":"*","SourceType":"consul","Action":"allow","Precedence":5,"CreateIndex":30,"ModifyIndex":31}]'
ask("a reply of Consul: web", None, (ALLOW, "intention", 0), raw=DEST_DB)
ask("a reply of Consul: api", None, (DENY, "intention", 1), raw=DEST_DB, client=svc("api"))
ask("a reply of Consul: other namespace", None, (DENY, "default-policy"), raw=DEST_DB, client=svc("web", ns="other"))
PEERED = '[{"SourceNS":"default","SourceName":"web","DestinationNS":"default","DestinationName":"peered","SourceType":"consul","Action":"deny","Precedence":9,"CreateIndex":154,"ModifyIndex":154},{"SourceNS":"default","SourceName":"web","DestinationNS":"default","DestinationName":"peered","SourcePeer":"clusterb","SourceType":"consul","Action":"allow","Precedence":9,"CreateIndex":154,"ModifyIndex":154},{"SourceNS":"default","SourceName":"*","DestinationNS":"default","DestinationName":"peered","SourcePeer":"clusterb","SourceType":"consul","Action":"deny","Precedence":8,"CreateIndex":154,"ModifyIndex":154},{"SourceNS":"default","SourceName":"web","DestinationNS":"default","DestinationName":"*","SourceType":"consul","Action":"deny","Precedence":6,"CreateIndex":30,"ModifyIndex":31},{"SourceNS":"default","SourceName":"*","DestinationNS":"default","DestinationName":"*","SourceType":"consul","Action":"allow","Precedence":5,"CreateIndex":30,"ModifyIndex":31}]'
CLUSTER_B = {"clusterb": {"trust_domain": "b.consul"}}
ask("a peered reply of Consul: our web", None, (DENY, "intention", 0), raw=PEERED, target="peered", peers=CLUSTER_B)
ask("a peered reply of Consul: their web", None, (ALLOW, "intention", 1), raw=PEERED, target="peered", peers=CLUSTER_B, client=svc("web", td="b.consul"))
ask("a peered reply of Consul: their api", None, (DENY, "intention", 2), raw=PEERED, target="peered", peers=CLUSTER_B, client=svc("api", td="b.consul"))
ask("a peered reply of Consul: our api", None, (ALLOW, "intention", 4), raw=PEERED, target="peered", peers=CLUSTER_B, client=svc("api"))
ask("worked example 5", [rule("web", ALLOW, "api"), rule("*", DENY, "api")], (DENY, "intention", 1), target="api", client=svc("x"), default=ALLOW)
ask("worked example 8", [rule("*", ALLOW, "*"), rule("web", DENY, "*")], (DENY, "intention", 0), target="api")
ask("worked example 54", [rule("web", ALLOW, "api", SourcePeer="beta")], (ALLOW, "intention", 0), target="api", client=PEER_WEB, peers=PEERS)
ask("worked example 55", [rule("*", DENY, "api", SourcePeer="beta"), rule("web", ALLOW, "api")], (ALLOW, "intention", 0), target="api", peers=PEERS)
ask("worked example 56", [rule("*", DENY, "api"), rule("web", ALLOW, "*")], (DENY, "intention", 0), target="api")
ask("worked example 57", [rule("*", ALLOW, "api"), rule("web", DENY, "*")], (ALLOW, "intention", 0), target="api", default=ALLOW)


# --- random lists, answered by a model --------------------------------------------
def level(r):
    to = 3 if r["DestinationNS"] == "*" else 6 if r["DestinationName"] == "*" else 9
    return to - (2 if r["SourceNS"] == "*" else 1 if r["SourceName"] == "*" else 0)


STRICTNESS = {"log": 0, None: 1, DENY: 2, ALLOW: 5}


request_vectors.add(ask, both, rule, svc, T, BETA, PEERS, JWT)


def model(rules, client, default, matching):
    """First match in the documented order; `client` is (peer, ns, name)."""
    def strictness(r):
        return STRICTNESS[r.get("Action")] + (-1 if r.get("Action") == ALLOW and "JWT" in r else 0)

    def key(r):
        return (-level(r), r.get("SourcePeer", ""), r["SourceNS"], r["SourceName"],
                r["DestinationNS"], r["DestinationName"], strictness(r))

    peer, ns, name = client
    for place, r in enumerate(sorted(rules, key=key)):
        fold = matching == "strict" and r.get("Action") != ALLOW
        same = (lambda a, b: a.lower() == b.lower()) if fold else (lambda a, b: a == b)
        if r.get("SourcePeer", "") != peer:
            continue
        if r["SourceNS"] != "*" and not same(r["SourceNS"], ns):
            continue
        if r["SourceName"] != "*" and not same(r["SourceName"], name):
            continue
        action = r.get("Action")
        if action is None:
            return (DENY, "l7-intention-on-tcp", place)
        if action == "log":
            return (DENY, "unreadable-rule", place)
        if action == ALLOW and "JWT" in r:
            return (DENY, "jwt-on-tcp", place)
        return (action, "intention", place)
    return (default, "default-policy")


rng = random.Random(20261121)
for number in range(400):
    rules = []
    for _ in range(rng.randint(1, 9)):
        source = rng.choice(["web", "web", "WEB", "web2", "api", "*", "*", "other/web", "other/*", "*/*"])
        to = rng.choice(["db", "db", "db", "default/*", "*/*"])
        more = {}
        if rng.random() < 0.2:
            more["SourcePeer"] = rng.choice(["beta", "gamma"])
        kind = rng.random()
        if kind < 0.06:
            r = rule(source, None, to, Permissions=permissions(rng.choice([ALLOW, DENY])), **more)
        elif kind < 0.12:
            r = rule(source, ALLOW, to, JWT=JWT, **more)
        elif kind < 0.16:
            r = rule(source, "log", to, **more)
        else:
            r = rule(source, rng.choice([ALLOW, DENY]), to, **more)
        if all(any(r.get(k) != o.get(k) for k in ("SourcePeer", "SourceNS", "SourceName", "DestinationNS", "DestinationName")) for o in rules):
            rules.append(r)
    peer, td, ap = rng.choice([("", T, None)] * 3 + [("beta", BETA, None), ("gamma", "gamma.consul", "ap1")])
    ns, name = rng.choice(["default"] * 3 + ["other"]), rng.choice(["web", "web", "WEB", "web2", "webb", "api"])
    default, matching = rng.choice([ALLOW, DENY]), rng.choice(["strict", "envoy"])
    ask(f"random {number}", rules, model(rules, (peer, ns, name), default, matching), client=svc(name, ns, ap, td),
        default=default, matching=matching, peers=PEERS)

AUTHORIZE.write()

# --- parse-id ---------------------------------------------------------------------
IDS = File("parse-id.ndjson")


def good(uri, kind, **parts):
    answer = {"ok": True, "kind": kind, "trust_domain": parts.pop("td", "t.consul"), **parts}
    IDS.add({"question": {"id": uri, "ask": "parse-id", "uri": uri}, "answer": answer})


def bad(uri, code):
    name = uri if len(uri) < 100 else f"{uri[:20]} ({len(uri)} characters)"
    IDS.add({"question": {"id": name or "empty", "ask": "parse-id", "uri": uri}, "answer": {"ok": False, "because": {"code": code}}})


S = "spiffe://t.consul"
D = {"partition": "default", "namespace": "default", "datacenter": "dc1"}
good(f"{S}/ns/default/dc/dc1/svc/web", "service", **D, service="web")
good(f"{S}/ap/default/ns/default/dc/dc1/svc/web", "service", **D, service="web")
good(f"{S}/ap/Default/ns/default/dc/dc1/svc/web", "service", **D, service="web")
good(f"{S}/ap/AP1/ns/Ns/dc/DC/svc/We.b_1-2", "service", partition="ap1", namespace="Ns", datacenter="DC", service="We.b_1-2")
good(f"{S}/ns/svc/dc/svc/svc/svc", "service", partition="default", namespace="svc", datacenter="svc", service="svc")
good(f"{S}/agent/client/dc/dc1/id/n1", "agent", partition="default", datacenter="dc1", agent="n1")
good(f"{S}/ap/ap1/agent/client/dc/dc1/id/n1", "agent", partition="ap1", datacenter="dc1", agent="n1")
good(f"{S}/agent/server/dc/dc1", "server", datacenter="dc1")
good(f"{S}/gateway/mesh/dc/dc1", "mesh-gateway", partition="default", datacenter="dc1")
good(f"{S}/ap/ap1/gateway/mesh/dc/dc1", "mesh-gateway", partition="ap1", datacenter="dc1")
good(S, "signing")
good("spiffe://a", "signing", td="a")
good("spiffe://a-b_c.9/x", "other", td="a-b_c.9")
for path in ("/x", "/ns/default/dc/dc1/svc", "/ns/default/dc/dc1/svc/web/x", "/NS/default/dc/dc1/svc/web", "/ns/default/svc/web",
             "/dc/dc1/ns/default/svc/web", "/agent/client/dc/dc1", "/agent/server/dc/dc1/x", "/gateway/terminating/dc/dc1", "/ap/ap1/agent/server/dc/dc1",
             "/ap/x", "/svc/svc/web", "/".join([""] + ["a"] * 40)):
    good(S + path, "other")
bad("", "empty")
bad(f"{S}/" + "a" * 2048, "too-long")
good(f"{S}/" + "a" * (2048 - len(S) - 1), "other")
for uri in ("http://t.consul/x", "t.consul/x", "spiff://t/x", "://t/x", "spiffes://t/x", " spiffe://t/x", "web"):
    bad(uri, "wrong-scheme")
for uri in ("SPIFFE://t/x", "Spiffe://t/x", "spiffE://t/x"):
    bad(uri, "scheme-not-lower-case")
for uri in ("spiffe:t/x", "spiffe:/t/x", "spiffe:"):
    bad(uri, "no-authority")
for uri in (f"{S}/x?y", f"{S}?y=1", f"{S}/x?"):
    bad(uri, "has-query")
for uri in (f"{S}/x#y", f"{S}#", f"{S}/x?y#z"):
    bad(uri, "has-fragment")
for uri in ("spiffe://u@t/x", "spiffe://u:p@t/x", "spiffe://@t/x"):
    bad(uri, "has-user-info")
for uri in ("spiffe://t:80/x", "spiffe://t:/x"):
    bad(uri, "has-port")
for uri in (f"{S}/w%65b", f"{S}/a%2fb", f"{S}/%", "spiffe://t%2e/x"):
    bad(uri, "percent-encoded")
for uri in ("spiffe://", "spiffe:///ns/default"):
    bad(uri, "empty-trust-domain")
bad(f"spiffe://{'a' * 256}/x", "trust-domain-too-long")
good(f"spiffe://{'a' * 255}/x", "other", td="a" * 255)
for uri in ("spiffe://T.consul/x", "spiffe://t.consuL"):
    bad(uri, "trust-domain-not-lower-case")
for uri in ("spiffe://t!/x", "spiffe://t \u00e4/x", "spiffe://[::1]x/x", "spiffe://t\\x/x", "spiffe://b\u00fccher/x"):
    bad(uri, "has-port" if "::" in uri else "bad-trust-domain-character")
for uri in (f"{S}/", f"{S}/x/", f"{S}/ns/default/dc/dc1/svc/web/"):
    bad(uri, "trailing-slash")
for uri in (f"{S}//x", f"{S}/x//y"):
    bad(uri, "empty-segment")
for uri in (f"{S}/.", f"{S}/..", f"{S}/x/../y", f"{S}/./x"):
    bad(uri, "dot-segment")
for uri in (f"{S}/a b", f"{S}/a\u00e9", f"{S}/a*", f"{S}/a+b", f"{S}/a\n", f"{S}/a\u0000", f"{S}/a;b", f"{S}/a\\b", f"{S}/a\u2028", f"{S}/a:b", f"{S}/a@b"):
    bad(uri, "bad-path-character")
IDS.write()

# --- documents: what a question of `eval` cannot say -------------------------------
DOCUMENTS = File("documents.ndjson")
MESH = {"trust_domain": T, "default_policy": "deny", "max_stale_ms": 1000}
DB = "service/default/default/db"
WEB_ALLOWED = {"intentions": [rule("web", ALLOW)]}


def load(generation, refused=(), confirmed_at=0, **changes):
    changes = [{"name": {"mesh": "mesh", "db": DB}.get(k, k), "body": v, "confirmed_at": confirmed_at} for k, v in changes.items()]
    return {"load": {"generation": generation, "changes": changes}, "refused": list(refused)}


def at(now, effect, code, target="db", **more):
    return {"authorize": {"target": target, "client_uris": [svc("web")], "at": now}, "answer": {"effect": effect, "because": {"code": code, **more}}}


def touch(confirmed_at, *names):
    return {"touch": {"names": list(names), "confirmed_at": confirmed_at}}


def story(name, *steps):
    DOCUMENTS.add({"id": name, "steps": list(steps)})


OK = (ALLOW, "intention")
story("nothing is loaded", at(0, DENY, "not-ready"), at(0, DENY, "malformed-target", target="d b"))
story("only the mesh", load(1, mesh=MESH), at(0, DENY, "unknown-target"))
story("only the service", load(1, db=WEB_ALLOWED), at(0, DENY, "not-ready"))
story("both", load(1, mesh=MESH, db=WEB_ALLOWED), at(0, *OK, intention=0), at(0, DENY, "unknown-target", target="api"),
      at(0, *OK, target="Default/DEFAULT/Db", intention=0))
story("the default policy is not known", load(1, mesh={**MESH, "default_policy": "unknown"}, db={"intentions": None}),
      at(0, DENY, "default-policy-unknown"))
story("the default policy is missing", load(1, mesh={"trust_domain": T}, db={"intentions": None}), at(0, DENY, "default-policy-unknown"))
story("removed", load(1, mesh=MESH, db=WEB_ALLOWED), load(2, db=None), at(0, DENY, "unknown-target"), load(3, mesh=None), at(0, DENY, "not-ready"))
story("stale", load(1, mesh=MESH, db=WEB_ALLOWED), at(1000, *OK, intention=0), at(1001, DENY, "stale"), at(0, DENY, "stale"))
story("stale until touched", load(1, mesh=MESH, db=WEB_ALLOWED), at(5000, DENY, "stale"), touch(5000, DB), at(5000, DENY, "stale"),
      touch(5000, "mesh"), at(5000, *OK, intention=0), at(6001, DENY, "stale"), touch(6001), at(7001, *OK, intention=0))
story("the far future", load(1, mesh=MESH, db=WEB_ALLOWED), at(2**64 - 1, DENY, "stale"), at(0, DENY, "stale"), touch(0), at(0, *OK, intention=0))
story("no staleness budget", load(1, mesh={**MESH, "max_stale_ms": 0}, db=WEB_ALLOWED), at(2**64 - 1, *OK, intention=0))
story("the default budget is a day", load(1, mesh={"trust_domain": T, "default_policy": "deny"}, db=WEB_ALLOWED),
      at(86_400_000, *OK, intention=0), at(86_400_001, DENY, "stale"))
story("confirmed in the future", load(1, confirmed_at=9000, mesh=MESH, db=WEB_ALLOWED), at(0, *OK, intention=0), at(10_000, *OK, intention=0), at(10_001, DENY, "stale"))
for label, body in {"no object": [], "text": "text", "no list": {"intentions": {}}, "missing": {}, "protocol": {"intentions": [], "protocol": "udp"}}.items():
    story(f"a refused service leaves the last good one: {label}", load(1, mesh=MESH, db=WEB_ALLOWED),
          load(2, refused=[DB], confirmed_at=900, db=body), at(1000, *OK, intention=0), at(1001, DENY, "stale"))
for label, body in {"no trust domain": {"default_policy": "allow"}, "upper case": {**MESH, "trust_domain": T.upper()}, "default": {**MESH, "default_policy": "ALLOW"},
                    "matching": {**MESH, "matching": "loose"}, "budget": {**MESH, "max_stale_ms": "0"}, "peers": {**MESH, "peers": []}, "roots": {**MESH, "roots": ["no PEM"]}}.items():
    story(f"a refused mesh leaves the last good one: {label}", load(1, mesh=MESH, db=WEB_ALLOWED), load(2, refused=["mesh"], mesh=body), at(0, *OK, intention=0))
story("one refused document refuses no other", load(1, refused=["nonsense"], mesh=MESH, db=WEB_ALLOWED, nonsense={}), at(0, *OK, intention=0))
story("a peer comes and goes", load(1, mesh=MESH, db={"intentions": [rule("web", ALLOW)]}), at(0, *OK, intention=0),
      load(2, mesh={**MESH, "trust_domain": "other.consul"}), at(0, DENY, "foreign-trust-domain"),
      load(3, mesh={**MESH, "trust_domain": "other.consul", "peers": {"own": {"trust_domain": T, "roots": []}}}), at(0, DENY, "default-policy"),
      load(4, db={"intentions": [rule("web", ALLOW, SourcePeer="own")]}), at(0, *OK, intention=0),
      load(5, db={"intentions": [rule("web", ALLOW, SourcePeer="own"), rule("x", DENY, SourcePeer="gone")]}), at(0, DENY, "peer-without-bundle", intention=0),
      load(6, mesh={**MESH, "trust_domain": "other.consul", "peers": {"own": {"trust_domain": T}, "gone": {"trust_domain": "gone.consul"}}}), at(0, *OK, intention=1))
DOCUMENTS.write()
