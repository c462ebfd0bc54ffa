#!/bin/sh
# Makes the certificates in this folder with OpenSSL: for each pair of CA key and hash
# one root and one leaf that it signed. Private keys are thrown away.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/root.ext" <<'EXT'
basicConstraints=critical,CA:TRUE
keyUsage=critical,digitalSignature,keyCertSign,cRLSign
subjectAltName=URI:spiffe://vectors.example
EXT
cat > "$work/leaf.ext" <<'EXT'
basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature,keyEncipherment
extendedKeyUsage=clientAuth,serverAuth
subjectAltName=critical,URI:spiffe://vectors.example/ns/default/dc/dc1/svc/web
EXT
make() { # name, hash option, key options
  name=$1 hash=$2
  shift 2
  openssl genpkey -out "$work/ca.key" "$@" 2>/dev/null
  openssl req -new -key "$work/ca.key" -subj "/CN=$name" -out "$work/ca.csr" $hash
  openssl x509 -req -in "$work/ca.csr" -signkey "$work/ca.key" -set_serial 1 -days 3650 $hash \
    -extfile "$work/root.ext" -out "$name-root.pem" 2>/dev/null
  openssl genpkey -out "$work/leaf.key" -algorithm EC -pkeyopt ec_paramgen_curve:P-256
  openssl req -new -key "$work/leaf.key" -subj "/" -out "$work/leaf.csr" 2>/dev/null
  openssl x509 -req -in "$work/leaf.csr" -CA "$name-root.pem" -CAkey "$work/ca.key" -set_serial 2 \
    -days 3650 $hash -extfile "$work/leaf.ext" -out "$name-leaf.pem" 2>/dev/null
}
for bits in 224 256 384 521; do
  for hash in 256 384 512; do
    make "p$bits-sha$hash" "-sha$hash" -algorithm EC -pkeyopt "ec_paramgen_curve:P-$bits"
  done
done
for bits in 2048 3072 4096; do
  for hash in 256 384 512; do
    make "rsa$bits-sha$hash" "-sha$hash" -algorithm RSA -pkeyopt "rsa_keygen_bits:$bits"
  done
done
make rsa1024-sha256 -sha256 -algorithm RSA -pkeyopt rsa_keygen_bits:1024
make rsa8192-sha256 -sha256 -algorithm RSA -pkeyopt rsa_keygen_bits:8192
make rsa2048-sha1 -sha1 -algorithm RSA -pkeyopt rsa_keygen_bits:2048
make p256-sha1 -sha1 -algorithm EC -pkeyopt ec_paramgen_curve:P-256
make ed25519 "" -algorithm ED25519
