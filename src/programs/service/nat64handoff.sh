#!/bin/sh
# Runs the current release, and as its user where root calls it: root executes nothing that an update brought. It may
# have port 9, as for self-check, and has no terminal of root's that it could type into.
program=/home/nat64ho/current/nat64handoff
[ "$(id -u)" = 0 ] || exec "$program" "$@"
exec setsid --fork --wait setpriv --pdeathsig TERM --reuid=nat64ho --regid=nat64ho --init-groups --no-new-privs \
    --bounding-set=-all,+net_bind_service --inh-caps=-all,+net_bind_service --ambient-caps=-all,+net_bind_service \
    "$program" "$@"
