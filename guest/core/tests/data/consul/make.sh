#!/bin/sh
# Makes the certificates in this folder with a real Consul agent, whose CA is rotated
# three times. Needs CONSUL=/path/to/consul, curl and python3; takes some minutes,
# because the agent delays new leaves after a rotation.
set -eu
cd "$(dirname "$0")"
consul=${CONSUL:?path of the consul binary}
port=${PORT:-21840}
work=$(mktemp -d)
"$consul" agent -dev -node n1 -bind 127.0.0.1 -client 127.0.0.1 -http-port "$port" \
  -grpc-port=-1 -grpc-tls-port=-1 -dns-port=-1 -serf-lan-port "$((port + 1))" \
  -serf-wan-port "$((port + 2))" -server-port "$((port + 3))" > "$work/log" 2>&1 &
agent=$!
trap 'kill "$agent"; rm -rf "$work"' EXIT
get() { curl -sf "http://127.0.0.1:$port/v1/$1"; }
serial() { get agent/connect/ca/leaf/web | python3 -c 'import json,sys; print(json.load(sys.stdin)["SerialNumber"])'; }
save() { # name
  get agent/connect/ca/roots > "$work/roots"
  get agent/connect/ca/leaf/web > "$work/leaf"
  python3 - "$1" "$work" <<'PY'
import json, sys
name, work = sys.argv[1:]
for i, root in enumerate(json.load(open(f"{work}/roots"))["Roots"]):
    open(f"{name}-root{i}.pem", "w").write(root["RootCert"].strip() + "\n")
open(f"{name}-leaf.pem", "w").write(json.load(open(f"{work}/leaf"))["CertPEM"].strip() + "\n")
PY
}
rotate() { # key type, bits
  before=$(serial)
  curl -sf -X PUT "http://127.0.0.1:$port/v1/connect/ca/configuration" -d "{\"Provider\":\"consul\",\"Config\":{
    \"LeafCertTTL\":\"72h\",\"IntermediateCertTTL\":\"8760h\",\"RootCertTTL\":\"87600h\",
    \"PrivateKeyType\":\"$1\",\"PrivateKeyBits\":$2}}"
  while [ "$(serial)" = "$before" ]; do sleep 2; done
}
until serial > /dev/null 2>&1; do sleep 1; done
save p256
rotate ec 384 && save p256-to-p384
rotate rsa 2048 && save p384-to-rsa
rotate ec 521 && save rsa-to-p521
