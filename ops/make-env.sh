#!/bin/sh
# Prints fresh secrets for ops/compose.yaml: sh ops/make-env.sh > ops/.env
# FOR ONE MACHINE AND FOR TRYING OUT. A cluster gets its secrets from where it keeps them.
set -eu
secret() { head -c 36 /dev/urandom | base64 | tr '+/' '-_'; }
umask 077
cat <<END
AUTH_JWT_SECRET=$(secret)
AUTH_ADMIN_SECRET=$(secret)
POSTGRES_PASSWORD=$(secret)
VALKEY_PASSWORD=$(secret)
GRAFANA_ADMIN_PASSWORD=$(secret)
END
