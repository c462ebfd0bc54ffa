"""Questions about HTTP requests, for make.py; the rules are those of `decision-semantics.md`.

What Envoy 1.40 does with a path is in `guest/core/tests/data/envoy-paths.ndjson`; here are
the rules of intentions, and what becomes of one request under both kinds of matching.
"""

import base64
import datetime
import json
import pathlib

ALLOW, DENY = "allow", "deny"
BAD = ("bad-request", "bad-request")


def http(action, path=None, header=None, methods=None, jwt=None):
    """A permission; `path` is (kind, text), `header` one or a list."""
    match = {}
    if path:
        match[path[0]] = path[1]
    if header:
        match["Header"] = header if isinstance(header, list) else [header]
    if methods:
        match["Methods"] = methods
    permission = {"Action": action, "HTTP": match}
    if jwt:
        permission["JWT"] = jwt
    return permission


def exact(text): return ("PathExact", text)
def prefix(text): return ("PathPrefix", text)
def head(name, kind, value=True, **more): return {"Name": name, kind: value, **more}


def add(ask, both, rule, svc, T, BETA, PEERS, JWT):
    def permission(i, effect):
        return (effect, "permission", 0, i)

    NONE = {ALLOW: (ALLOW, "no-permission-matched", 0), DENY: (DENY, "no-permission-matched", 0)}

    def request(name, permissions, expected, method="GET", path="/", headers=(), rules=None, source="web", **more):
        """A question with one L7 rule; `expected` is the place of the permission, or None for none."""
        default = more.get("default", DENY)
        if expected is None:
            expected = NONE[default]
        elif isinstance(expected, int):
            expected = permission(expected, permissions[expected]["Action"])
        question = {"method": method, "path": path, "headers": [list(h) for h in headers]}
        for field in ("authority", "scheme"):
            if field in more:
                question[field] = more.pop(field)
        more.setdefault("protocol", "http")
        ask(f"request: {name}", [rule(source, Permissions=permissions)] if rules is None else rules, expected,
            request=question, **more)

    def modes(name, permissions, strict, envoy, **more):
        request(f"{name}, strict", permissions, strict, **more)
        request(f"{name}, envoy", permissions, envoy, matching="envoy", **more)

    def same(name, permissions, expected, **more):
        modes(name, permissions, expected, expected, **more)

    # --- order and default ------------------------------------------------------
    L7A = [http(DENY, prefix("/admin")), http(ALLOW, prefix("/v1"), methods=["GET", "POST"]), http(ALLOW, exact("/healthz"))]
    for default in (ALLOW, DENY):
        for place, method, path in ((0, "GET", "/admin/x"), (1, "GET", "/v1/users"), (1, "POST", "/v1x"), (None, "PUT", "/v1/users"),
                                    (2, "GET", "/healthz"), (2, "GET", "/healthz?deep=1"), (None, "GET", "/healthz/"),
                                    (None, "GET", "/HEALTHZ"), (None, "GET", "/other"), (0, "DELETE", "/administrator")):
            same(f"worked example {method} {path} {default}", L7A, place, method=method, path=path, default=default)
    same("the first permission decides", [http(ALLOW, prefix("/v1")), http(DENY, prefix("/v1/secret"))], 0, path="/v1/secret")
    same("the order counts", [http(DENY, exact("/v1/secret")), http(ALLOW, prefix("/v1"))], 1, path="/v1/secret/x")
    # CVE-2021-36213: one denial only, nothing matched, default deny.
    same("only a denial, which does not match, under deny", [http(DENY, prefix("/x"))], None, path="/y")
    same("only a denial, which does not match, under allow", [http(DENY, prefix("/x"))], None, path="/y", default=ALLOW)
    for default in (ALLOW, DENY):
        request(f"no permission matched never falls through to the next intention ({default})", [], (default, "no-permission-matched", 0),
                path="/other", default=default, rules=[rule("web", Permissions=L7A), rule("*", DENY if default == ALLOW else ALLOW)])
        request(f"another source's permissions say nothing ({default})", [], (DENY if default == ALLOW else ALLOW, "intention", 1),
                path="/v1", default=default, rules=[rule("api", Permissions=L7A), rule("*", DENY if default == ALLOW else ALLOW)])
        request(f"an L4 allow ({default})", [], (ALLOW, "intention", 0), path="/a?b", default=default, rules=[rule("web", ALLOW)])
        request(f"an L4 denial ({default})", [], (DENY, "intention", 0), path="/a?b", default=default, rules=[rule("web", DENY)])
        request(f"no intention ({default})", [], (default, "default-policy"), path="/a?b", default=default, rules=[])
        request(f"an unreadable permission ({default})", [], (DENY, "unreadable-rule", 0), path="/a", default=default,
                rules=[rule("web", Permissions=[http(ALLOW, exact("/a")), {"Action": "log", "HTTP": {"PathExact": "/b"}}])])
        request(f"permissions on tcp ({default})", [], (DENY, "l7-intention-on-tcp", 0), path="/v1", default=default, protocol="tcp",
                rules=[rule("web", Permissions=L7A)])
    for protocol in ("http2", "grpc"):
        for version in ("1.1", "2"):
            same(f"{protocol} by {version}", L7A, 1, path="/v1/x", protocol=protocol, http_version=version)

    # --- case variants of the source ---------------------------------------------
    WEB = [http(DENY, prefix("/admin")), http(ALLOW, prefix("/"))]
    for variant in ("WEB", "Web"):
        more = {"client": svc(variant)}
        request(f"strict: {variant} is refused what web is refused", WEB, 0, path="/admin", default=ALLOW, **more)
        request(f"strict: {variant} is not allowed what web is", WEB, (DENY, "default-policy"), path="/x", **more)
        request(f"strict: {variant} falls to the rule that covers it", [], (DENY, "intention", 1), path="/x", default=ALLOW,
                rules=[rule("web", Permissions=WEB), rule("*", DENY)], **more)
        request(f"strict: {variant} needs both", [], (ALLOW, "intention", 1), path="/x", rules=[rule("web", Permissions=WEB), rule("*", ALLOW)], **more)
        request(f"strict: {variant} needs both, default", [], (DENY, "no-permission-matched", 0), path="/x",
                rules=[rule("web", Permissions=[http(ALLOW, exact("/a"))]), rule("*", ALLOW)], **more)
        request(f"envoy: {variant} is another", [], (ALLOW, "intention", 1), path="/admin", matching="envoy",
                rules=[rule("web", Permissions=WEB), rule("*", ALLOW)], **more)

    # --- methods -------------------------------------------------------------------
    GET = [http(ALLOW, methods=["GET"])]
    same("HEAD is not GET", GET, None, method="HEAD")
    same("one of the methods", [http(ALLOW, methods=["PUT", "PATCH"])], 0, method="PATCH")
    for method in ("get", "Get", "FOO", "", "G ET", "GET\n", "QUERY", "G\u00c9T"):
        same(f"no method of HTTP/1.1: {method!r}", [http(ALLOW, prefix("/"))], BAD, method=method, default=ALLOW)
    same("an unusual method", [http(ALLOW, prefix("/"))], 0, method="PROPFIND")
    for method in ("get", "FOO", "QUERY"):
        same(f"a method of HTTP/2: {method}", GET + [http(DENY, prefix("/"))], 1, method=method, http_version="2", default=ALLOW)
    for method in ("", "G ET", "GET\u0000"):
        same(f"no method of HTTP/2: {method!r}", [http(ALLOW, prefix("/"))], BAD, method=method, http_version="2", default=ALLOW)
    same("CONNECT has no path", [http(ALLOW, prefix("/")), http(ALLOW, methods=["CONNECT"])], 1, method="CONNECT", path="db:443")
    same("CONNECT to a path", [http(ALLOW, methods=["CONNECT"])], BAD, method="CONNECT", path="/x")
    same("CONNECT of HTTP/2", [http(ALLOW, prefix("/")), http(ALLOW, methods=["CONNECT"])], 1, method="CONNECT", path="", http_version="2")
    same("OPTIONS for all", [http(ALLOW, prefix("/")), http(ALLOW, methods=["OPTIONS"])], 1, method="OPTIONS", path="*")
    same("GET for all", [http(ALLOW, methods=["GET"])], BAD, path="*")

    # --- paths: what is matched is what is forwarded ---------------------------------
    ADMIN = [http(DENY, prefix("/admin")), http(ALLOW, prefix("/"))]
    V1 = [http(ALLOW, prefix("/v1/"))]
    for path, forwarded in (("/a/../admin", "/admin"), ("/./admin", "/admin"), ("/%61dmin", "/admin"), ("/%2e%2e/admin", "/admin"),
                            ("/x\\..\\admin", "/admin"), ("/x/..;/admin", "/admin"), ("/x/..;y=1/admin?q", "/admin?q"), ("/x/%2E%2e/admin", "/admin"),
                            ("/admin", "/admin"), ("/admin/%2e", "/admin/"), ("/../../admin", "/admin"), ("http://db/admin", "/admin"),
                            ("HTTPS://db/x/../admin", "/admin")):
        same(f"denied in its normal form: {path}", ADMIN, 0, path=path, default=ALLOW)
        same(f"forwarded in its normal form: {path}", [http(ALLOW, prefix("/admin"))], 0, path=path, forwarded=forwarded)
    for path, forwarded in (("/v1/a/../../x", "/x"), ("/v1/%2e%2e/x", "/x"), ("/v1/items/..;/..;/x", "/x")):
        same(f"an allow needs the normal form: {path}", V1, None, path=path)
        request(f"forwarded under an L4 allow: {path}", [], (ALLOW, "intention", 0), path=path, forwarded=forwarded, rules=[rule("web", ALLOW)])
        request(f"forwarded by default: {path}", [], (ALLOW, "default-policy"), path=path, forwarded=forwarded, rules=[], default=ALLOW)
    for path in ("/v1/%zz", "/v1/%", "/v1/%20", "/v1/(a)!$&'*+,=:@", "/v1/%252e%252e", "/v1/...", "/v1/a?x=/../..", "/v1/%e2%80%a8", "/v1/%c3%a9"):
        same(f"already normal: {path}", V1, 0, path=path)
    for path, forwarded in (("/v1/<\">`{|}^", "/v1/%3C%22%3E%60%7B%7C%7D%5E"), ("/v1/%7e%41%2d", "/v1/~A-"), ("/v1/%%34%31", "/v1/%2541"), ("/v1/%2%65", "/v1/%252e")):
        same(f"written in one way: {path}", V1, 0, path=path, forwarded=forwarded)
    for path in ("", "v1", "//", "*x", "ftp://db/v1", "http:///v1", "/a#b", "/a?b#c", "/%00", "/v1/%00/x", "/a b", "/a\tb", "/a\u007f", "/\u00e9",
                 "/a\r\nb", "/a\u0000", "http://d b/", "/a/%2e%2e;x/b"):
        expected = BAD if path != "//" else 0
        same(f"no target of HTTP/1.1: {path!r}", [http(ALLOW, prefix("/"))], expected, path=path)
        request(f"no target, no rule: {path!r}", [], BAD if expected == BAD else (ALLOW, "default-policy"), path=path, rules=[], default=ALLOW)
    for path in ("v1", "", "http://db/v1", "/a b", "/a\u0001", "/a#b", "/%00"):
        same(f"no path of HTTP/2: {path!r}", [http(ALLOW, prefix("/"))], BAD, path=path, http_version="2")
    same("HTTP/2 paths beyond ASCII are encoded", [http(ALLOW, exact("/%C3%A9"))], 0, path="/\u00c3\u00a9", http_version="2", forwarded="/%C3%A9")
    # Observed on Envoy 1.40 (`tests/envoy_rbac`): byte by byte, UTF-8 or not.
    same("HTTP/2 paths that are no UTF-8 are encoded too", [http(ALLOW, exact("/a%FF%E9b"))], 0, path="/x/../a\u00ff\u00e9b", http_version="2", forwarded="/a%FF%E9b")
    same("an empty cookie of HTTP/2 is none", [http(ALLOW, header=head("cookie", "Present"))], None, headers=[("cookie", "")], http_version="2")
    same("empty cookies of HTTP/2 are none", [http(ALLOW, header=head("cookie", "Present"))], None, headers=[("cookie", ""), ("cookie", "")], http_version="2")
    same("an empty cookie of HTTP/1.1", [http(ALLOW, header=head("cookie", "Present"))], 0, headers=[("cookie", "")])
    same("a port that is no number", [http(ALLOW, prefix("/"))], BAD, path="http://db:80x/")
    same("a port that is a number", [http(ALLOW, prefix("/"))], 0, path="http://[::1]:80/", forwarded="/")
    same("an empty :authority", [http(ALLOW, prefix("/"))], BAD, authority="", http_version="2")
    same("an empty host in the place of :authority", [http(ALLOW, prefix("/"))], BAD, headers=[("host", "")], http_version="2")
    same("an empty host of HTTP/1.1", [http(ALLOW, prefix("/"))], 0, headers=[("host", "")])
    same("a path of an intention is not normalised", [http(ALLOW, exact("/e%41"))], None, path="/e%41")
    same("a query in an intention never matches", [http(ALLOW, exact("/x?y=1"))], None, path="/x?y=1")
    same("an escape is told by its case", [http(ALLOW, exact("/a%20b%3f"))], None, path="/a%20b%3F")

    # --- paths that can be read in several ways ---------------------------------------
    for path in ("//admin", "/x//../admin", "/x/..//admin", "/%2fadmin", "/%2Fadmin", "/x%2f..%2fadmin", "/%5cadmin", "/x/..%5cadmin", "/admin;x",
                 "/x;y/../admin", "/;/admin", "/x/%2e%2e%2fadmin", "/x;y/..%2fadmin", "///admin", "/x%2f..;a%2fb/admin"):
        denied = path == "/x;y/../admin" or path == "/admin;x"
        forwarded = {"/x/..//admin": "//admin", "/x//../admin": "/x/admin", "/x/%2e%2e%2fadmin": "/x/..%2fadmin"}.get(path, path)
        request(f"strict: a denial covers {path}", ADMIN, 0, path=path, default=ALLOW)
        request(f"envoy: a denial does not cover {path}", ADMIN, 0 if denied else 1, path=path, default=ALLOW, matching="envoy", forwarded=forwarded)
    for path in ("/v1/..%2fadmin", "/v1//..%2f..%2f..", "/v1/..%5c..%5cx", "/v1/a;/..%2f../x"):
        modes(f"an allow holds in every reading: {path}", V1, None, 0, path=path)
    for path in ("/v1//a", "/v1/a%2Fb", "/v1/a;b=1", "/v1/%5c"):
        same(f"an allow that holds in every reading: {path}", V1, 0, path=path)
    modes("an exact path with parameters", [http(ALLOW, exact("/a;b"))], None, 0, path="/a;b")
    modes(":path in several readings, denied", [http(DENY, header=head(":path", "Exact", "/admin?x")), http(ALLOW, prefix("/"))], 0, 1, path="//admin?x")
    same(":path has the query", [http(ALLOW, header=head(":path", "Exact", "/a?b=1"))], 0, path="/a?b=1")
    same(":path has the normal form", [http(ALLOW, header=head(":path", "Exact", "/b?c"))], 0, path="/a/../b?c", forwarded="/b?c")

    # --- the mesh entry's RequestNormalization ------------------------------------------
    def normalized(name, fields, path, envoy, strict=None, **more):
        """`envoy` and `strict` are the place of ADMIN's permission with the forwarded path, or the answer."""
        for matching, expected in (("envoy", envoy), ("strict", envoy if strict is None else strict)):
            forwarded = None
            if isinstance(expected, str):
                expected, forwarded = (ALLOW, "permission", 0, 1), expected
            elif isinstance(expected, tuple) and len(expected) == 1:
                expected, forwarded = ("redirect", "path-redirect"), expected[0]
            request(f"{name}: {path}, {matching}", ADMIN, expected, path=path, request_normalization=fields, matching=matching, default=ALLOW,
                    **({"forwarded": forwarded} if forwarded is not None else {}), **more)

    for fields in (None, {}, {"MergeSlashes": False, "PathWithEscapedSlashesAction": "", "HeadersWithUnderscoresAction": ""},
                   {"PathWithEscapedSlashesAction": "KEEP_UNCHANGED", "HeadersWithUnderscoresAction": "ALLOW"},
                   {"PathWithEscapedSlashesAction": "IMPLEMENTATION_SPECIFIC_DEFAULT"}):
        normalized(f"the default {fields}", fields, "/x/../y%2fz", "/y%2fz")
    merge = {"MergeSlashes": True}
    normalized("merge", merge, "//admin", 0)
    normalized("merge", merge, "/a//b///c?//", "/a/b/c?//")
    normalized("merge after dot removal", merge, "/x//../admin", "/x/admin", 0)
    normalized("merge", merge, "///", "//")
    raw = {"InsecureDisablePathNormalization": True}
    normalized("not normalised", raw, "/x/../admin", "/x/../admin", 0)
    normalized("not normalised", raw, "/x/%2e%2e/%61", "/x/%2e%2e/%61")
    normalized("not normalised", raw, "/%61dmin", "/%61dmin", 0)
    # What cannot be normalised has no other readings: Envoy forwards it, strictly it is none.
    for path in ("/x/../admin/%00", "//admin/%00", "/%00"):
        normalized("not normalised, a NUL", raw, path, path, BAD)
    normalized("not normalised, a NUL in the query", raw, "/a?%00", "/a?%00")
    normalized("not normalised, merged", {**raw, **merge}, "//x//../y", "/x/../y")
    reject = {"PathWithEscapedSlashesAction": "REJECT_REQUEST"}
    for path in ("/a%2fb", "/a%2Fb", "/a%5cb", "/a%5Cb"):
        normalized("escaped slashes refused", reject, path, BAD)
    normalized("escaped slashes refused, not in the query", reject, "/a?b=%2f", "/a?b=%2f")
    again = {"PathWithEscapedSlashesAction": "UNESCAPE_AND_REDIRECT"}
    for path, location in (("/a%2fb", "/a/b"), ("/a%5Cb?x=%2f", "/a/b?x=%2f"), ("/x/..%2fadmin", "/admin"), ("/%2f%2fa", "///a")):
        normalized("escaped slashes redirected", again, path, (location,))
    normalized("escaped slashes redirected, merged", {**again, **merge}, "/%2f%2fa", ("/a",))
    normalized("no escaped slashes", again, "/x/../y", "/y")
    forward = {"PathWithEscapedSlashesAction": "UNESCAPE_AND_FORWARD"}
    for path, target in (("/a%2fb", "/a/b"), ("/a%5Cb?x=%2f", "/a/b?x=%2f"), ("/a%252fb", "/a%252fb")):
        normalized("escaped slashes forwarded", forward, path, target)
    normalized("escaped slashes forwarded", forward, "/x/..%2fadmin", 0)
    normalized("escaped twice", forward, "/a%2%66b", "/a%252fb")
    XY = [http(DENY, header=head("x_y", "Present")), http(ALLOW, prefix("/"))]
    for action, expected in (("ALLOW", 0), ("DROP_HEADER", 1), ("REJECT_REQUEST", BAD)):
        same(f"underscores {action}", XY, expected, headers=[("x_y", "1")], request_normalization={"HeadersWithUnderscoresAction": action})
        same(f"no underscores {action}", XY, 1, headers=[("x-y", "1")], request_normalization={"HeadersWithUnderscoresAction": action})

    # --- headers ------------------------------------------------------------------------
    def header(name, match, values, envoy, strict=None, deny=None, **more):
        """Whether a permission with `match` matches; `deny` is what a strict denial does where it differs."""
        key = match["Name"] if not match["Name"].startswith(":") else "x-other"
        headers = [(key, value) for value in values]
        strict = envoy if strict is None else strict
        modes(f"{name}, allow", [http(ALLOW, header=match)], 0 if strict else None, 0 if envoy else None, headers=headers, **more)
        deny = envoy if deny is None else deny
        modes(f"{name}, deny", [http(DENY, header=match)], 0 if deny else None, 0 if envoy else None, headers=headers, default=ALLOW, **more)

    for kind, value in (("Exact", "prod"), ("Prefix", "pro"), ("Suffix", "rod"), ("Contains", "ro")):
        match = head("x-env", kind, value)
        header(f"{kind} matches", match, ["prod"], True)
        header(f"{kind} misses", match, ["dev"], False)
        header(f"{kind} of a shorter value", match, ["o"], False)
        header(f"{kind} of an empty value", match, [""], False)
        header(f"{kind} of an absent header", match, [], False)
        header(f"{kind} has case", match, ["PROD"], False)
        header(f"{kind} without case", {**match, "IgnoreCase": True}, ["PrOd"], True)
        header(f"{kind} without case, of the rule", {**match, kind: value.upper(), "IgnoreCase": True}, ["prod"], True)
        header(f"{kind} without case folds ASCII alone", {"Name": "x-env", kind: "\u00e9", "IgnoreCase": True}, ["\u00c3\u0089"], False)
        header(f"{kind} inverted matches", {**match, "Invert": True}, ["dev"], True)
        header(f"{kind} inverted misses", {**match, "Invert": True}, ["prod"], False)
        header(f"{kind} inverted of an absent header", {**match, "Invert": True}, [], False)
        header(f"{kind} inverted of an empty value", {**match, "Invert": True}, [""], True)
    header("a value beyond ASCII", head("x-env", "Exact", "\u00e9"), ["\u00c3\u00a9"], True)
    header("present", head("x-env", "Present"), ["a"], True)
    header("present though empty", head("x-env", "Present"), [""], True)
    header("present of an absent header", head("x-env", "Present"), [], False)
    header("present inverted", head("x-env", "Present", Invert=True), ["a"], False)
    header("present inverted of an empty value", head("x-env", "Present", Invert=True), [""], False)
    header("present inverted of an absent header", head("x-env", "Present", Invert=True), [], True)
    header("white space is trimmed", head("x-env", "Exact", "a"), [" \ta\t "], True)
    header("inner white space is not", head("x-env", "Exact", "a b"), ["a  b"], False)
    same("names have no case", [http(ALLOW, header=head("X-Env", "Exact", "a"))], 0, headers=[("x-eNV", "a")])
    same("_ is not -", [http(ALLOW, header=head("x_env", "Exact", "a"))], None, headers=[("x-env", "a")])
    same("all headers must match", [http(ALLOW, header=[head("a", "Exact", "1"), head("b", "Exact", "2")])], None, headers=[("a", "1")])
    same("all headers match", [http(ALLOW, header=[head("a", "Exact", "1"), head("b", "Exact", "2")])], 0, headers=[("b", "2"), ("a", "1")])
    same("a header twice in a rule", [http(ALLOW, header=[head("a", "Prefix", "x"), head("a", "Suffix", "y")])], 0, headers=[("a", "x-y")])
    # Repeated: Envoy takes any value; strictly, any, every and the joined text are readings.
    header("repeated, one matches", head("x-env", "Exact", "prod"), ["a", "prod"], True, strict=False)
    header("repeated, none matches", head("x-env", "Exact", "prod"), ["a", "b"], False)
    header("repeated, all match", head("x-env", "Exact", "prod"), ["prod", "prod"], True, strict=False)
    header("repeated, all begin so", head("x-env", "Prefix", "prod"), ["prod1", "prod2"], True)
    header("repeated, the joined text alone matches", head("x-env", "Exact", "a,b"), ["a", "b"], False, deny=True)
    header("repeated and inverted, one matches", head("x-env", "Exact", "prod", Invert=True), ["a", "prod"], False, deny=True)
    header("repeated and inverted, none matches", head("x-env", "Exact", "prod", Invert=True), ["a", "b"], True)
    header("repeated and inverted, joined", head("x-env", "Exact", "a,b", Invert=True), ["a", "b"], True, strict=False)
    header("repeated, present", head("x-env", "Present"), ["", ""], True)
    header("in one line", head("x-env", "Exact", "prod"), ["a,prod"], False)
    # Envoy keeps these in one piece.
    header("user-agent joined", head("user-agent", "Exact", "a,b"), ["a", "b"], True, strict=False)
    header("user-agent by value", head("user-agent", "Exact", "b"), ["a", "b"], False, deny=True)
    header("authorization by value", head("Authorization", "Exact", "b"), ["a", "b"], False, deny=True)
    header("cookie by value", head("cookie", "Exact", "b=2"), ["a=1", "b=2"], True, strict=False)
    header("cookie of HTTP/2 joined", head("cookie", "Exact", "a=1; b=2"), ["a=1", "b=2"], True, strict=False, http_version="2")
    header("cookie of HTTP/2 by value", head("cookie", "Exact", "b=2"), ["a=1", "b=2"], False, deny=True, http_version="2")
    header("HTTP/2 values are not trimmed", head("x-env", "Exact", "alpha"), [" alpha "], False, deny=True, http_version="2")
    header("HTTP/2 values as they are", head("x-env", "Exact", " alpha "), [" alpha "], True, strict=False, http_version="2")
    header("HTTP/2, trimmed and repeated", head("x-env", "Exact", "a"), ["b", "a "], False, deny=True, http_version="2")

    # --- pseudo headers and the authority ------------------------------------------------
    same(":method", [http(ALLOW, header=head(":method", "Exact", "POST"))], 0, method="POST")
    for name in ("host", ":authority", "Host"):
        same(f"{name} is Host", [http(ALLOW, header=head(name, "Exact", "db:80"))], 0, headers=[("hOst", "db:80")])
        same(f"{name} is :authority", [http(ALLOW, header=head(name, "Exact", "db"))], 0, authority="db", http_version="2")
        same(f"{name} is host without :authority", [http(ALLOW, header=head(name, "Exact", "db"))], 0, headers=[("host", "db")], http_version="2")
        same(f"{name} is not host beside :authority", [http(ALLOW, header=head(name, "Exact", "other"))], None, headers=[("host", "other")],
             authority="db", http_version="2")
        same(f"{name} of an absolute target", [http(ALLOW, header=head(name, "Exact", "db"))], 0, path="http://u@db/x", headers=[("host", "other")],
             forwarded="/x")
        same(f"{name} absent", [http(ALLOW, header=head(name, "Present"))], None)
        modes(f"{name} in upper case, denied", [http(DENY, header=head(name, "Exact", "db.example"))], 0, None, headers=[("host", "DB.Example")], default=ALLOW)
        modes(f"{name} twice", [http(ALLOW, header=head(name, "Exact", "a,b"))], BAD, 0, headers=[("host", "a"), ("Host", "b")])
    for host in ("a b", "a/b", "a?b", "a#b", "a\\b", "\u00e9", "a\"b"):
        same(f"no authority: {host!r}", [http(ALLOW, prefix("/"))], BAD, headers=[("host", host)])
        same(f"no :authority: {host!r}", [http(ALLOW, prefix("/"))], BAD, authority=host, http_version="2")
    SECURE = [http(ALLOW, header=head(":scheme", "Exact", "https"))]
    same(":scheme is the connection's", SECURE, 0, scheme="https")
    same(":scheme is not a header's", SECURE, None, scheme="http", headers=[("x-forwarded-proto", "https")])
    same(":scheme of a client with a certificate", SECURE, 0)
    same("no scheme", SECURE, BAD, scheme="ftp")
    same("an unknown pseudo header is absent", [http(ALLOW, header=head(":status", "Present"))], None)
    same("an unknown pseudo header is absent, inverted", [http(ALLOW, header=head(":status", "Present", Invert=True))], 0)

    # --- what HTTP forbids -----------------------------------------------------------------
    for name, value in (("", "a"), ("x y", "a"), ("x:", "a"), (":path", "/a"), ("x(", "a"), ("\u00e9", "a"), ("x\u0000", "a"),
                        ("x", "a\u0000b"), ("x", "a\nb"), ("x", "a\rb"), ("x", "\u0001"), ("x", "\u007f")):
        for version in ("1.1", "2"):
            same(f"no header {name!r} {value!r} {version}", [http(ALLOW, prefix("/"))], BAD, headers=[(name, value)], http_version=version)
    same("a tab in a value", [http(ALLOW, header=head("x", "Exact", "a\tb"))], 0, headers=[("x", "a\tb")])
    same("bytes beyond ASCII in a value", [http(ALLOW, prefix("/"))], 0, headers=[("x", "\u00ff\u0080")])
    for name, value in (("X-Env", "a"), ("connection", "close"), ("keep-alive", "1"), ("proxy-connection", "1"), ("transfer-encoding", "chunked"),
                        ("upgrade", "websocket"), ("te", "gzip")):
        same(f"no header of HTTP/2: {name}", [http(ALLOW, prefix("/"))], BAD, headers=[(name, value)], http_version="2")
        same(f"a header of HTTP/1.1: {name}", [http(ALLOW, prefix("/"))], 0, headers=[(name, value)])
    same("te: trailers", [http(ALLOW, prefix("/"))], 0, headers=[("te", "trailers")], http_version="2")
    request("who is not known is refused before a bad request is", [], (DENY, "foreign-trust-domain"), path="", client=svc("web", td="other.consul"))

    # --- tokens: they can only restrict what the default policy does not say --------
    DATA = json.loads((pathlib.Path(__file__).parents[2] / "guest/core/tests/data/jwt/tokens.json").read_text())
    TOKENS, KEYS = DATA["tokens"], DATA["keys"]
    NOW = datetime.datetime.fromtimestamp(DATA["now"], datetime.timezone.utc)
    def keys(name): return {"Local": {"JWKS": base64.b64encode(json.dumps(KEYS[name]).encode()).decode()}}
    def provider(name="okta", issuer="okta", jwks="all", **more): return {"Name": name, "Issuer": issuer, "JSONWebKeySet": keys(jwks), **more}
    OKTA = [provider()]
    def bearer(token): return ("authorization", "Bearer " + TOKENS[token])
    def of(name, **claims): return {"Providers": [{"Name": name, "VerifyClaims": [{"Path": p.split("/"), "Value": v} for p, v in claims.get("claims", [])]}]}
    GONE = [["authorization", None]]

    def token(name, default, rule_, expected, headers=(), providers=OKTA, at=0, **more):
        """A question with one rule that asks for a token."""
        moment = (NOW + datetime.timedelta(seconds=at)).strftime("%Y-%m-%dT%H:%M:%SZ")
        more.setdefault("rules", [rule_])
        request(f"token: {name} ({default})", [], expected, default=default, headers=headers, jwt_providers=providers, at=moment, **more)

    def tokens(name, default, rule_, expected, **more):
        for matching in ("strict", "envoy"):
            token(f"{name}, {matching}", default, rule_, expected, **({"matching": matching} if matching == "envoy" else {}), **more)

    for matching in ("strict", "envoy"):
        for action in (ALLOW, DENY):
            for default in (ALLOW, DENY):
                for label, headers in (("valid", [bearer("RS256")]), ("other key", [bearer("other key")]), ("none", [])):
                    more = {"matching": matching} if matching == "envoy" else {}
                    met = label == "valid"
                    if action == default:
                        effect, code = default, "jwt-without-effect"
                    elif met:
                        effect, code = action, None
                    else:
                        effect, code = default, "jwt-not-satisfied"
                    if met and effect == ALLOW:
                        more["changes"] = GONE
                    token(f"{action}, {label}, {matching}, intention", default, rule("web", action, JWT=JWT), (effect, code or "intention", 0),
                          headers=headers, **more)
                    token(f"{action}, {label}, {matching}, never the next intention", default, None, (effect, code or "intention", 0), headers=headers,
                          rules=[rule("web", action, JWT=JWT), rule("*", DENY if effect == ALLOW else ALLOW)], **more)
                    token(f"{action}, {label}, {matching}, permission", default, rule("web", Permissions=[http(DENY, exact("/x")), http(action, prefix("/v1"), jwt=JWT)]),
                          (effect, code or "permission", 0, 1), headers=headers, path="/v1", **more)
                    token(f"{action}, {label}, {matching}, never the next permission", default,
                          rule("web", Permissions=[http(action, prefix("/v1"), jwt=JWT), http(DENY if effect == ALLOW else ALLOW, prefix("/"))]),
                          (effect, code or "permission", 0, 0), headers=headers, path="/v1", **more)
                    token(f"{action}, {label}, {matching}, of the intention, for its permissions", default,
                          rule("web", Permissions=[http(action, prefix("/v1"))], JWT=JWT), (effect, code or "permission", 0, 0), headers=headers, path="/v1", **more)
                    more.pop("changes", None)
                    token(f"{action}, {label}, {matching}, permission that does not match", default, rule("web", Permissions=[http(action, prefix("/v1"), jwt=JWT)]),
                          (default, "no-permission-matched", 0), headers=headers, path="/v2", **more)
                    token(f"{action}, {label}, {matching}, on tcp", default, rule("web", action, JWT=JWT), (DENY, "jwt-on-tcp" if action == ALLOW else "intention", 0),
                          headers=headers, protocol="tcp", **more)
    for default in (ALLOW, DENY):
        asked = rule("web", ALLOW, JWT=JWT)
        ask(f"token: question without a request ({default})", [asked], (DENY, "request-required", 0), default=default, protocol="http", jwt_providers=OKTA)

    # What is a valid token: the wrong kinds of it, and which only Envoy takes.
    ALLOWED = rule("web", ALLOW, JWT=JWT)
    UNMET = (DENY, "jwt-not-satisfied", 0)
    MET = (ALLOW, "intention", 0)
    for name in ("RS256", "ES256", "ES384", "ES512", "EdDSA", "kid", "exp fraction", "aud list", "aud other", "aud absent"):
        if name != "exp fraction":
            tokens(f"{name} is one", DENY, ALLOWED, MET, headers=[bearer(name)], changes=GONE)
    for name in ("other key", "weak key", "none", "none in capitals", "no signature", "HS256 with the public key", "HS256 with the modulus", "ES256 said of RS256",
                 "kid a number", "repeated member", "repeated member within", "repeated alg", "exp null", "exp text", "exp 1e400", "exp negative", "exp 61 ago",
                 "nbf in 61", "nbf null", "nbf text", "nbf negative", "iss absent", "iss other", "iss empty", "iss list", "aud number", "not JSON", "two parts",
                 "four parts"):
        tokens(f"{name} is none", DENY, ALLOWED, UNMET, headers=[bearer(name)])
    for name in ("RS384", "PS256", "exp absent", "exp 0", "exp fraction", "crit", "padded"):
        token(f"{name}, strict", DENY, ALLOWED, UNMET, headers=[bearer(name)])
        token(f"{name}, envoy", DENY, ALLOWED, MET, headers=[bearer(name)], matching="envoy", changes=GONE)
        # A denial holds for what Envoy takes, too.
        tokens(f"{name} for a denial", ALLOW, rule("web", DENY, JWT=JWT), (DENY, "intention", 0), headers=[bearer(name)])
    for name, at, met in (("exp 60 ago", 0, True), ("exp 60 ago", 1, False), ("nbf in 60", 0, True), ("nbf in 61", 0, False), ("nbf in 61", 1, True)):
        tokens(f"{name}, {at} s later", DENY, ALLOWED, MET if met else UNMET, headers=[bearer(name)], at=at, **({"changes": GONE} if met else {}))
    SKEW = [provider(ClockSkewSeconds=10)]
    token("a smaller skew counts, strict", DENY, ALLOWED, UNMET, headers=[bearer("exp 20 ago")], providers=SKEW)
    token("a smaller skew does not count, envoy", DENY, ALLOWED, MET, headers=[bearer("exp 20 ago")], providers=SKEW, matching="envoy", changes=GONE)
    AUDIENCE = [provider(Audiences=["http://api"])]
    tokens("an audience without its scheme", DENY, ALLOWED, MET, headers=[bearer("RS256")], providers=AUDIENCE, changes=GONE)
    for name in ("aud other", "aud absent"):
        tokens(f"{name} where the provider has one", DENY, ALLOWED, UNMET, headers=[bearer(name)], providers=AUDIENCE)
    tokens("the algorithm belongs to the key", DENY, ALLOWED, UNMET, headers=[bearer("RS256")], providers=[provider(jwks="PS256")])
    tokens("the key that kid names", DENY, ALLOWED, MET, headers=[bearer("kid")], providers=[provider(jwks="with kid")], changes=GONE)
    tokens("a kid of no key", DENY, ALLOWED, UNMET, headers=[bearer("kid of no key")], providers=[provider(jwks="with kid")])
    tokens("keys of another", DENY, ALLOWED, UNMET, headers=[bearer("RS256")], providers=[provider(jwks="other")])

    # Providers: unknown, unreadable, without keys, several.
    tokens("an unknown provider", DENY, ALLOWED, UNMET, headers=[bearer("RS256")], providers=[])
    tokens("a provider whose name is in doubt, denied", ALLOW, rule("web", DENY, JWT=JWT), (DENY, "intention", 0), headers=[bearer("RS256")],
           providers=[{**provider(), "name": "other"}])
    tokens("an unknown provider, denied", ALLOW, rule("web", DENY, JWT=JWT), (ALLOW, "jwt-not-satisfied", 0), headers=[bearer("RS256")], providers=[])
    for label, broken in (("unreadable", {"Name": "okta", "Issuer": 7}), ("symmetric keys", provider(jwks="symmetric")), ("weak keys", provider(jwks="weak")),
                          ("keys that nobody has fetched", {"Name": "okta", "Issuer": "okta", "JSONWebKeySet": {"Remote": {"URI": "https://okta.example/keys"}}})):
        tokens(f"{label}: allows nothing", DENY, ALLOWED, UNMET, headers=[bearer("RS256")], providers=[broken])
        tokens(f"{label}: a denial holds", ALLOW, rule("web", DENY, JWT=JWT), (DENY, "intention", 0), headers=[bearer("RS256")], providers=[broken])
    # Nobody has said which providers there are: nothing opens.
    for matching in ("strict", "envoy"):
        more = {"matching": matching} if matching == "envoy" else {}
        request(f"token: providers nobody knows allow nothing, {matching}", [], UNMET, rules=[ALLOWED], **more)
        request(f"token: providers nobody knows let a denial hold, {matching}", [], (DENY, "intention", 0), default=ALLOW, rules=[rule("web", DENY, JWT=JWT)], **more)
    TWO = [provider(), provider("auth0", "auth0")]
    EITHER = {"Providers": [{"Name": "auth0"}, {"Name": "okta"}]}
    tokens("one of two providers", DENY, rule("web", ALLOW, JWT=EITHER), MET, headers=[bearer("RS256")], providers=TWO, changes=GONE)
    tokens("no provider", DENY, rule("web", ALLOW, JWT={"Providers": []}), UNMET, headers=[bearer("RS256")])
    # CVE-2023-3518: both must hold, and not by another provider's token.
    tokens("of the intention and of the permission", DENY, rule("web", Permissions=[http(ALLOW, prefix("/"), jwt=JWT)], JWT=of("auth0")),
           (DENY, "jwt-not-satisfied", 0, 0), headers=[bearer("RS256")], providers=TWO)
    tokens("of the intention and of the permission, both", DENY,
           rule("web", Permissions=[http(ALLOW, prefix("/"), jwt=of("okta", claims=[("sub", "alice")]))], JWT=JWT), (ALLOW, "permission", 0, 0),
           headers=[bearer("RS256")], changes=GONE)
    SPLIT = {"Providers": [{"Name": "auth0"}, {"Name": "okta", "VerifyClaims": [{"Path": ["sub"], "Value": "bob"}]}]}
    tokens("one claim by each of two providers is none", DENY, rule("web", ALLOW, JWT=SPLIT), UNMET, headers=[bearer("RS256")], providers=TWO)

    # Claims: text only, members one by one.
    for path, value, met in (("sub", "alice", True), ("sub", "bob", False), ("perms/role", "admin", True), ("perms.role", "admin", False), ("perms/a.b", "dotted", True),
                             ("perms/list", "admin", False), ("perms/level", "7", False), ("perms", "admin", False), ("nothing", "", False)):
        tokens(f"claim {path} {value!r}", DENY, rule("web", ALLOW, JWT=of("okta", claims=[(path, value)])), MET if met else UNMET, headers=[bearer("RS256")],
               **({"changes": GONE} if met else {}))
    tokens("all claims", DENY, rule("web", ALLOW, JWT=of("okta", claims=[("sub", "alice"), ("perms/role", "user")])), UNMET, headers=[bearer("RS256")])

    # Where tokens are, and what goes upstream.
    GOOD = TOKENS["RS256"]
    tokens("in the query", DENY, ALLOWED, MET, path=f"/a?x=1&access_token={GOOD}&y=2", forwarded="/a?x=1&y=2")
    tokens("alone in the query", DENY, ALLOWED, MET, path=f"/a?access_token={GOOD}", forwarded="/a")
    tokens("in the query of a path that changes", DENY, ALLOWED, MET, path=f"/b/../a?access_token={GOOD}", forwarded="/a")
    token("twice, strict", DENY, ALLOWED, UNMET, headers=[bearer("RS256")], path=f"/a?access_token={GOOD}")
    token("twice, envoy", DENY, ALLOWED, MET, headers=[bearer("RS256")], path=f"/a?access_token={GOOD}", forwarded="/a", changes=GONE, matching="envoy")
    tokens("twice, one is none", DENY, ALLOWED, UNMET, headers=[bearer("other key")], path=f"/a?access_token={GOOD}")
    for label, value in (("another scheme", "Basic " + GOOD), ("case counts", "bearer " + GOOD), ("bare", GOOD), ("empty", "Bearer "), ("no header", None)):
        tokens(f"bearer: {label}", DENY, ALLOWED, UNMET, headers=[("authorization", value)] if value is not None else [])
    HEADER = [provider(Locations=[{"Header": {"Name": "X-Token"}}])]
    FORWARD = [provider(Locations=[{"Header": {"Name": "X-Token", "Forward": True}}])]
    tokens("a header of its own", DENY, ALLOWED, MET, headers=[("x-token", GOOD)], providers=HEADER, changes=[["x-token", None]])
    tokens("a header that is forwarded", DENY, ALLOWED, MET, headers=[("x-token", GOOD)], providers=FORWARD)
    tokens("not where the provider looks", DENY, ALLOWED, UNMET, headers=[bearer("RS256")], providers=HEADER)
    token("repeated, strict", DENY, ALLOWED, UNMET, headers=[("x-token", GOOD), ("x-token", GOOD)], providers=HEADER)
    COOKIE = [provider(Locations=[{"Cookie": {"Name": "jwt"}}])]
    tokens("a cookie", DENY, ALLOWED, MET, headers=[("cookie", f"a=b; jwt={GOOD}")], providers=COOKIE)
    PARAMETER = [provider(Locations=[{"QueryParam": {"Name": "t"}}])]
    tokens("a parameter", DENY, ALLOWED, MET, path=f"/?t={GOOD}", providers=PARAMETER, forwarded="/")
    tokens("not the default ones then", DENY, ALLOWED, UNMET, path=f"/?access_token={GOOD}", providers=PARAMETER)
    PAYLOAD = [provider(Forwarding={"HeaderName": "X-Payload"})]
    body = GOOD.split(".")[1]
    tokens("its payload", DENY, ALLOWED, MET, headers=[bearer("RS256"), ("x-payload", "forged")], providers=PAYLOAD, changes=[["x-payload", body], ["authorization", None]])
    tokens("its payload, padded", DENY, ALLOWED, MET, headers=[bearer("RS256")], changes=[["x-payload", body + "=" * (-len(body) % 4)], ["authorization", None]],
           providers=[provider(Forwarding={"HeaderName": "X-Payload", "PadForwardPayloadHeader": True})])
    tokens("a forged payload without a token", ALLOW, ALLOWED, (ALLOW, "jwt-without-effect", 0), headers=[("x-payload", "forged")], providers=PAYLOAD,
           changes=[["x-payload", None]])
    tokens("a forged payload where no rule asks", DENY, rule("web", ALLOW), MET, headers=[("x-payload", "forged")], providers=PAYLOAD, changes=[["x-payload", None]])
    # A denial in another reading whose token is missing does not hide a later one.
    HIDDEN = rule("web", Permissions=[http(DENY, prefix("/admin"), jwt=JWT), http(DENY, prefix("//"))])
    tokens("a denial in another reading without token does not end the list", ALLOW, HIDDEN, (DENY, "permission", 0, 1), path="//admin")
    token("a denial in another reading with token, strict", ALLOW, HIDDEN, (DENY, "permission", 0, 0), path="//admin", headers=[bearer("RS256")])
    token("a denial in another reading with token, envoy", ALLOW, HIDDEN, (DENY, "permission", 0, 1), path="//admin", headers=[bearer("RS256")], matching="envoy")
    token("a denial in another reading without token, alone", ALLOW, rule("web", Permissions=[http(DENY, prefix("/admin"), jwt=JWT)]),
          (ALLOW, "jwt-not-satisfied", 0, 0), path="//admin")

    # Nor does an allow that asks for one and matches in some readings only make room for a later one.
    for what, match, more in (("path", {"path": prefix("/admin")}, {"path": "/admin/..%2fx"}),
                              ("header", {"header": head("x-tenant", "Exact", "gold")}, {"headers": [("x-tenant", "gold"), ("x-tenant", "z")]})):
        LATER = rule("web", Permissions=[http(ALLOW, jwt=JWT, **match), http(ALLOW, prefix("/"))])
        tokens(f"an allow in some readings without token does not let a later one in, by {what}", DENY, LATER, (DENY, "jwt-not-satisfied", 0, 0), **more)
    LATER = rule("web", Permissions=[http(ALLOW, prefix("/admin"), jwt=JWT), http(ALLOW, prefix("/"))])
    token("an allow in some readings with token, strict", DENY, LATER, (ALLOW, "permission", 0, 1), path="/admin/..%2fx", headers=[bearer("RS256")])
    token("an allow in some readings with token, envoy", DENY, LATER, (ALLOW, "permission", 0, 0), path="/admin/..%2fx", headers=[bearer("RS256")], changes=GONE, matching="envoy")
    token("an allow in no reading without token", DENY, LATER, (ALLOW, "permission", 0, 1), path="/x")

    # --- patterns that cannot be used -----------------------------------------------------------
    for default in (ALLOW, DENY):
        for pattern in ("a(", "[", "(?=a)", "\\1", "a**", "x{1001}"):
            request(f"a pattern that RE2 refuses: {pattern} ({default})", [], (DENY, "unreadable-rule", 0), path="/v1", default=default,
                    rules=[rule("web", Permissions=[http(ALLOW, exact("/v1")), http(ALLOW, ("PathRegex", pattern))])])

    # --- patterns ---------------------------------------------------------------------------------
    for pattern, path, matches in (("/v[123]", "/v1", True), ("/v[123]", "/v1/x", False), ("/v[123]", "/v1?q=1", True), ("/a|/b", "/a", True),
                                   ("/a|/b", "/ab", False), ("/(?i)ADMIN", "/admin", True), ("/\\d+", "/12", True), ("/\\d+", "/12a", False),
                                   (".*", "/", True), ("/x{2,3}", "/xx", True), ("v1", "/v1", False), ("^/v1$", "/v1", True)):
        same(f"path pattern {pattern} {path}", [http(ALLOW, ("PathRegex", pattern))], 0 if matches else None, path=path)
        same(f"path pattern denied {pattern} {path}", [http(DENY, ("PathRegex", pattern))], 0 if matches else None, path=path, default=ALLOW)
    modes("a path pattern and its readings, denied", [http(DENY, ("PathRegex", "/admin(/.*)?")), http(ALLOW, prefix("/"))], 0, 1, path="//admin/x", default=ALLOW)
    modes("a path pattern and its readings, allowed", [http(ALLOW, ("PathRegex", "/[^/]*"))], None, 0, path="/a%2Fb")
    header("a pattern matches", head("x-id", "Regex", "[0-9]+"), ["12"], True)
    header("a pattern misses", head("x-id", "Regex", "[0-9]+"), ["12a"], False)
    header("a pattern of an absent header", head("x-id", "Regex", ".*"), [], False)
    header("a pattern of an empty value", head("x-id", "Regex", ".*"), [""], True)
    header("a pattern inverted", head("x-id", "Regex", "[0-9]+", Invert=True), ["12a"], True)
    header("a pattern of a repeated header", head("x-id", "Regex", "[0-9]+"), ["12", "a"], True, strict=False)
    header("a pattern of all values", head("x-id", "Regex", "[0-9]+"), ["12", "34"], True, strict=False)
    header("a pattern of the joined text", head("x-id", "Regex", "[0-9]+,[0-9]+"), ["12", "34"], False, deny=True)

    # --- peers through a mesh gateway ------------------------------------------------------------
    GATEWAY = f"spiffe://{T}/gateway/mesh/dc/dc1"
    PEER_WEB = svc("web", td=BETA)
    rules = [rule("web", Permissions=[http(ALLOW, prefix("/v1"))], SourcePeer="beta"), rule("web", DENY)]
    def via(name, xfcc, expected, **more):
        fields = {"path": "/v1/x", "rules": rules, "client": GATEWAY, "via_gateway": xfcc, "peers": PEERS, **more}
        request(f"gateway: {name}", [], expected, **{key: value for key, value in fields.items() if value is not None})
    NAMED = f"Hash=00;URI={PEER_WEB}"
    via("a peer's service", NAMED, (ALLOW, "permission", 1, 0))
    via("a peer's service, another path", NAMED, (DENY, "no-permission-matched", 1), path="/x")
    via("all that a gateway writes", f"By={GATEWAY};Hash=00;Cert=\"-----BEGIN%20\";Subject=\"CN=a,b;c=\\\"d\";{NAMED};DNS=x", (ALLOW, "permission", 1, 0))
    via("a peer's other service", f"Hash=00;URI={svc('api', td=BETA)}", (DENY, "default-policy"))
    for default in (ALLOW, DENY):
        for name, xfcc, code in (
            ("two elements", f"{NAMED},{NAMED}", "malformed-identity"), ("an element before", f"URI={svc('x', td=BETA)},{NAMED}", "malformed-identity"),
            ("two URIs", f"{NAMED};URI={PEER_WEB}", "several-identities"), ("no URI", "Hash=00", "no-identity"), ("empty", "", "malformed-identity"),
            ("quoted", f"URI=\"{PEER_WEB}\"", "malformed-identity"), ("no SPIFFE ID", "Hash=00;URI=https://web", "malformed-identity"),
            ("a service of this mesh", f"Hash=00;URI={svc('web')}", "not-a-service"), ("a peer's gateway", f"URI=spiffe://{BETA}/gateway/mesh/dc/d", "not-a-service"),
            ("a stranger", f"URI={svc('web', td='other.consul')}", "foreign-trust-domain"),
            ("a partition that is not exported", f"URI={svc('web', td='gamma.consul')}", "foreign-trust-domain"),
        ):
            via(f"{name} ({default})", xfcc, (DENY, code), default=default)
        via(f"no header ({default})", None, (DENY, "not-a-service"), default=default)
        via(f"a peer's gateway says so ({default})", NAMED, (DENY, "not-a-service"), default=default, client=f"spiffe://{BETA}/gateway/mesh/dc/d")
        via(f"a foreign gateway says so ({default})", NAMED, (DENY, "foreign-trust-domain"), default=default, client="spiffe://other.consul/gateway/mesh/dc/d")
        via(f"an agent says so ({default})", NAMED, (DENY, "not-a-service"), default=default, client=f"spiffe://{T}/agent/client/dc/dc1/id/n")
        via(f"a denied peer without bundle ({default})", NAMED, (DENY, "peer-without-bundle", 1), default=default,
            rules=[rule("web", ALLOW, SourcePeer="beta"), rule("x", DENY, SourcePeer="nobody")])
    via("a service says so", NAMED, (DENY, "intention", 0), client=svc("web"))
