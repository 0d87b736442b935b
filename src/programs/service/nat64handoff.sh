#!/bin/sh
# Runs the current release, and as its user where root calls it: root executes nothing that an update brought. It may
# have port 9, as for self-check, and has no terminal of root's that it could type into. It has the service's options
# and directories, where root names no others.
program=/home/nat64ho/current/nat64handoff
[ "$(id -u)" = 0 ] || exec "$program" "$@"
# What loads programs into the kernel is as it was when root ran install.
[ "${1-}" != peer-names ] || [ ! -x /home/nat64ho/peer-names ] || exec /home/nat64ho/peer-names "$@"
: "${NAT64HANDOFF_CONFIG=/etc/nat64handoff.toml}" "${STATE_DIRECTORY=/home/nat64ho/state}"
: "${LOGS_DIRECTORY=/home/nat64ho/logs}" "${RUNTIME_DIRECTORY=/run/nat64handoff}"
export NAT64HANDOFF_CONFIG STATE_DIRECTORY LOGS_DIRECTORY RUNTIME_DIRECTORY
exec setsid --fork --wait setpriv --pdeathsig TERM --reuid=nat64ho --regid=nat64ho --init-groups --no-new-privs \
    --bounding-set=-all,+net_bind_service --inh-caps=-all,+net_bind_service --ambient-caps=-all,+net_bind_service \
    "$program" "$@"
