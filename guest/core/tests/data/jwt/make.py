"""Tokens and keys for the tests of `jwt`, made by PyJWT and cryptography.

    pip install pyjwt cryptography && python3 make.py > tokens.json

Private keys are made anew and thrown away. Times are fixed: tests say what time it is.
"""

import base64
import hashlib
import hmac
import json

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

NOW = 1_800_000_000
GOOD = {"iss": "okta", "sub": "alice", "aud": "https://api/", "exp": NOW + 3600,
        "perms": {"role": "admin", "a.b": "dotted", "list": ["admin"], "level": 7}}


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


keys = {
    "rsa": rsa.generate_private_key(65537, 2048),
    "other": rsa.generate_private_key(65537, 2048),
    "weak": rsa.generate_private_key(65537, 1024),
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "p384": ec.generate_private_key(ec.SECP384R1()),
    "p521": ec.generate_private_key(ec.SECP521R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
}


def jwk(name, **more):
    algorithm = {"rsa": jwt.algorithms.RSAAlgorithm, "oth": jwt.algorithms.RSAAlgorithm,
                 "wea": jwt.algorithms.RSAAlgorithm, "p25": jwt.algorithms.ECAlgorithm,
                 "p38": jwt.algorithms.ECAlgorithm, "p52": jwt.algorithms.ECAlgorithm,
                 "ed2": jwt.algorithms.OKPAlgorithm}[name[:3]]
    key = json.loads(algorithm.to_jwk(keys[name].public_key()))
    key.pop("key_ops", None)
    return {**key, **more}


def signer(name, algorithm):
    if algorithm == "EdDSA":
        return jwt.algorithms.OKPAlgorithm()
    return jwt.algorithms.get_default_algorithms()[algorithm]


def raw(header, payload, name, algorithm):
    """A token of exactly this text, whatever it says."""
    message = b64(header.encode()) + "." + b64(payload.encode())
    signature = signer(name, algorithm).sign(message.encode(), keys[name])
    return message + "." + b64(signature)


def token(claims=None, name="rsa", algorithm="RS256", **header):
    header = {"alg": algorithm, "typ": "JWT", **header}
    return raw(json.dumps(header), json.dumps({**GOOD, **(claims or {})}), name, algorithm)


def without(*names):
    claims = {k: v for k, v in GOOD.items() if k not in names}
    return raw('{"alg":"RS256"}', json.dumps(claims), "rsa", "RS256")


def payload(text):
    """The good claims with one more member, as text."""
    body = json.dumps({k: v for k, v in GOOD.items() if k != "exp"})[:-1] + "," + text + "}"
    return raw('{"alg":"RS256"}', body, "rsa", "RS256")


public_pem = keys["rsa"].public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def symmetric(secret):
    message = b64(b'{"alg":"HS256"}') + "." + b64(json.dumps(GOOD).encode())
    return message + "." + b64(hmac.new(secret, message.encode(), hashlib.sha256).digest())


good = token()
head, body, signature = good.split(".")
tokens = {
    **{a: token(name="rsa", algorithm=a) for a in
       ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]},
    "ES256": token(name="p256", algorithm="ES256"),
    "ES384": token(name="p384", algorithm="ES384"),
    "ES512": token(name="p521", algorithm="ES512"),
    "EdDSA": token(name="ed25519", algorithm="EdDSA"),
    "kid": token(kid="one"),
    "kid of no key": token(kid="../../etc/passwd"),
    "kid a number": raw('{"alg":"RS256","kid":1}', json.dumps(GOOD), "rsa", "RS256"),
    "other key": token(name="other"),
    "weak key": token(name="weak"),
    "none": b64(b'{"alg":"none"}') + "." + body + ".",
    "none in capitals": b64(b'{"alg":"None"}') + "." + body + ".",
    "no signature": head + "." + body + ".",
    "HS256 with the public key": symmetric(public_pem),
    "HS256 with the modulus": symmetric(base64.urlsafe_b64decode(jwk("rsa")["n"] + "==")),
    "ES256 said of RS256": b64(b'{"alg":"ES256"}') + "." + body + "." + signature,
    "crit": token(crit=["exp"]),
    "padded": good + "==",
    "repeated member": payload(f'"exp":{NOW + 3600},"iss":"okta"'),
    "repeated member within": payload(f'"exp":{NOW + 3600},"x":{{"a":1,"a":2}}'),
    "repeated alg": raw('{"alg":"none","alg":"RS256"}', json.dumps(GOOD), "rsa", "RS256"),
    "exp absent": without("exp"),
    "exp null": payload('"exp":null'),
    "exp text": payload(f'"exp":"{NOW + 3600}"'),
    "exp fraction": payload(f'"exp":{NOW + 3600}.5'),
    "exp 1e400": payload('"exp":1e400'),
    "exp 1e300": payload('"exp":1e300'),
    "exp negative": payload('"exp":-1'),
    "exp 0": payload('"exp":0'),
    "exp 60 ago": payload(f'"exp":{NOW - 60}'),
    "exp 61 ago": payload(f'"exp":{NOW - 61}'),
    "exp 20 ago": payload(f'"exp":{NOW - 20}'),
    "nbf in 60": payload(f'"exp":{NOW + 3600},"nbf":{NOW + 60}'),
    "nbf in 61": payload(f'"exp":{NOW + 3600},"nbf":{NOW + 61}'),
    "nbf null": payload(f'"exp":{NOW + 3600},"nbf":null'),
    "nbf text": payload(f'"exp":{NOW + 3600},"nbf":"1"'),
    "nbf negative": payload(f'"exp":{NOW + 3600},"nbf":-1'),
    "iss absent": without("iss"),
    "iss other": token({"iss": "Okta"}),
    "iss empty": token({"iss": ""}),
    "iss list": token({"iss": ["okta"]}),
    "aud list": token({"aud": ["x", "http://api"]}),
    "aud other": token({"aud": "apis"}),
    "aud absent": without("aud"),
    "aud number": token({"aud": 1}),
    "not JSON": raw('{"alg":"RS256"}', "okta", "rsa", "RS256"),
    "two parts": head + "." + body,
    "four parts": good + ".x",
    "empty": "",
}
print(json.dumps({
    "now": NOW,
    "keys": {
        "all": {"keys": [jwk("rsa"), jwk("p256"), jwk("p384"), jwk("p521"), jwk("ed25519")]},
        "with kid": {"keys": [jwk("other", kid="two"), jwk("rsa", kid="one", alg="RS256")]},
        "PS256": {"keys": [jwk("rsa", alg="PS256")]},
        "for encryption": {"keys": [jwk("rsa", use="enc")]},
        "other": {"keys": [jwk("other")]},
        "weak": {"keys": [jwk("weak")]},
        "symmetric": {"keys": [{"kty": "oct", "k": b64(public_pem), "alg": "HS256"}]},
        "many": {"keys": [jwk("other", kid=str(n)) for n in range(9)] + [jwk("rsa")]},
    },
    "tokens": tokens,
}, indent=1))
