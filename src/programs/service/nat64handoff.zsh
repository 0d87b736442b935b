#compdef nat64handoff

autoload -U is-at-least

_nat64handoff() {
    typeset -A opt_args
    typeset -a _arguments_options
    local ret=1

    if is-at-least 5.2; then
        _arguments_options=(-s -S -C)
    else
        _arguments_options=(-s -C)
    fi

    local context curcontext="$curcontext" state line
    _arguments "${_arguments_options[@]}" : \
'-h[Print help]' \
'--help[Print help]' \
'-V[Print version]' \
'--version[Print version]' \
":: :_nat64handoff_commands" \
"*::: :->nat64handoff" \
&& ret=0
    case $state in
    (nat64handoff)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:nat64handoff-command-$line[1]:"
        case $line[1] in
            (serve)
_arguments "${_arguments_options[@]}" : \
'*--listen=[IPv4 address and port to take requests at; may be repeated, with the same port \[default\: 0.0.0.0\:64064\]]:ADDR[:PORT]:_default' \
'--port=[The port of each --listen that names none \[default\: 64064\]]:N:_default' \
'*--allow=[Serve only NAT64s in this network; may be repeated \[default\: all\]]:CIDR:_default' \
'*--deny=[Do not serve NAT64s in this network, even if allowed; may be repeated \[default\: none\]]:CIDR:_default' \
'--reactors=[Number of threads that handle requests, 1 to 256 \[default\: one per available CPU\]]:N:_default' \
'--io=[How datagrams are received and sent\: by io_uring, by recvmmsg and sendmmsg, or auto\: by io_uring where it is allowed \[default\: auto\]]:auto|uring|mmsg:(auto uring mmsg)' \
'--state=[Directory for the state; made if it does not exist \[default\: \$STATE_DIRECTORY or ./state\]]:DIR:_files' \
'--log=[File to append the event log to, - for standard output \[default\: \$LOGS_DIRECTORY/events.log or -\]]:FILE|-:_files' \
'--log-format=[full\: name the local address and the NAT64 prefix in each line, too; json\: all of that as JSON lines \[default\: plain\]]:plain|full|json:(plain full json)' \
'--history=[Folder for the history, by which the log is asked; off\: none is built \[default\: history beside the log'\''s file\]]:DIR|off:_files' \
'--log-keep=[Days for which files of former days of the log and its history are kept; 0\: for ever \[default\: 180\]]:DAYS:_default' \
'--sync=[When the journal is made durable\: whenever the kernel likes, before each answer that depends on it, or so often \[default\: interval\:100ms\]]:none|always|interval:DURATION:(none always)' \
'--max-nat64s=[NAT64s to serve at most; then the least worthy makes room \[default\: 1000\]]:N:_default' \
'--max-entries=[Entries to hold at most, for all NAT64s together \[default\: what fits in a quarter of the memory that it may have\]]:N:_default' \
'--client-share=[Share of a NAT64'\''s ports that one client network (/64) may have, 1/1024 to 1 \[default\: 0.125\]]:F:_default' \
'--validation-rate=[Validation packets to send at most in a second \[default\: 10000\]]:N:_default' \
'--create-rate=[Entries to create for one NAT64 at most in a second, after two whole tables at once \[default\: 2000\]]:N:_default' \
'--peer-names=[Programs on this host see the clients of NAT64s as their peers, once peer-names attach was run\: ipv6\: those that listen at \`\[\:\:\]\`; ipv4\: those that listen at 0.0.0.0, by addresses of --peer-pool \[default\: off\]]:off|ipv6|ipv4|both:(off both)' \
'--peer-maps=[Where peer-names attach has the maps of these names \[default\: /sys/fs/bpf/nat64handoff\]]:DIR:_files' \
'--peer-pool=[Network of the IPv4 addresses that stand for clients (--peer-names ipv4, --deliver translate)\: none that is in use \[default\: 100.64.0.0/12\]]:NET:_default' \
'--peer-pool-for=[For whom such an address stands\: for all clients of a /64, or for each client address, as always with --deliver translate \[default\: prefix64\]]:prefix64|address:(address)' \
'--peer-pool-idle=[How long such an address is kept for clients that have no entry (with --deliver translate, 2 h 4 min or more); each start begins anew \[default\: 1h\]]:DURATION:_default' \
'--deliver=[How packets of clients reach programs on this host\: cache\: their NAT64 translates them; native\: this server delivers them as they are, through --deliver-device; translate\: it delivers them as IPv4, from an address of --peer-pool for each client; auto\: native where a socket of IPv6 takes the port'\''s packets, else cache \[default\: cache\]]:cache|native|translate|auto:(cache native translate auto)' \
'*--deliver-port=[The same for packets to this port alone, like 80=native; may be repeated \[default\: none\]]:PORT=HOW:_default' \
'--deliver-device=[The TUN device through which packets are delivered \[default\: ho0\]]:NAME:_default' \
'*--deliver-service=[IPv6 address by which clients reach this host, behind a NAT64'\''s prefix, like 64\:ff9b\:\:203.0.113.5; may be repeated \[default\: those that the device has\]]:ADDRESS:_default' \
'--geneve=[Take offers of NAT64s to send clients'\'' packets through a Geneve tunnel, at UDP port 6081; what comes so is delivered natively, or translated where its port is\: needs --deliver native \[default\: off\]]::on|off:(on off)' \
'*--fleet=[Share the tables with the other hosts that have the same addresses, on etcd\: http\://HOST\:PORT of each of its nodes; may be repeated \[default\: none\]]:URL:_default' \
'--fleet-cell=[Name of the cell\: those hosts \[default\: main\]]:NAME:_default' \
'--fleet-host=[Number of this host, which no other of the cell has \[default\: off\]]:N|off:_default' \
'--fleet-address=[Address of this host alone, and a UDP port, to which the others pass requests on \[default\: off\]]:ADDR:PORT|off:(off)' \
'--fleet-fold=[Octets of records in etcd at which they are folded into snapshots \[default\: 64M\]]:N:_default' \
'--fleet-withdraw=[How long a host that stops goes on after /readyz has failed, so that its route is withdrawn \[default\: 2s\]]:DURATION:_default' \
'--fleet-authority=[File with the certificate that those of etcd are signed with, for https \[default\: off\]]:FILE|off:_files' \
'--fleet-certificate=[File with this host'\''s certificate for etcd \[default\: off\]]:FILE|off:_files' \
'--fleet-key=[File with its key \[default\: off\]]:FILE|off:_files' \
'--admin=[Unix socket at which \`status\` and the like ask the server, over HTTP; off\: none \[default\: \$RUNTIME_DIRECTORY/admin.sock, or admin.sock in the state directory\]]:PATH|off:_files' \
'--web=[Address and port at which the same is served over TCP, or off \[default\: off\]]:ADDR:PORT|off:(off)' \
'--web-token-file=[File with the token that --web asks for, of at least 16 characters; needed for other addresses than loopback \[default\: off\]]:FILE|off:_files' \
'--config=[TOML file with options]:FILE:_files' \
'--no-journal[Keep no journal\: nothing survives. For measurements]' \
'-h[Print help]' \
'--help[Print help]' \
&& ret=0
;;
(demo)
_arguments "${_arguments_options[@]}" : \
'--port=[The server'\''s port \[default\: any that is free\]]:N:_default' \
'-h[Print help]' \
'--help[Print help]' \
&& ret=0
;;
(gateway)
_arguments "${_arguments_options[@]}" : \
'*--pool=[A public IPv4 address; it must be routed to this host, and not be an address of this host; may be repeated\: each client keeps one of them]:ADDRESS:_default' \
'*--prefix=[A prefix of 96 bits that clients reach it by; may be repeated \[default\: 64\:ff9b\:\:/96\]]:PREFIX:_default' \
'--tun=[Name of the TUN device \[default\: nat64\]]:NAME:_default' \
'--mtu=[MTU of the TUN device, 1280 to 65535 octets \[default\: 1500\]]:N:_default' \
'--lowest-ipv6-mtu=[The lowest MTU of any link in the IPv6 network, 1280 octets up to --mtu\: IPv4 packets that may be fragmented are, so that they are no longer as IPv6 \[default\: 1280\]]:N:_default' \
'--queues=[Queues of the TUN device, 1 to 64, each with a thread\: the kernel deals flows out to them \[default\: 1\]]:N:_default' \
'--handoff-port=[The UDP port of handoff servers \[default\: 64064\]]:N:_default' \
'--client-share=[Share that one client network (/64) may have of the ports towards each server, and of all entries, where the gateway makes them without a server, 1/1024 to 1 \[default\: 0.125\]]:F:_default' \
'--rotate=[How often the key of the tokens is replaced, 2m to 365d \[default\: 1h\]]:DURATION:_default' \
'--secret=[File with the key of the authenticators; made if it does not exist. With it, a service that speaks first after a restart reaches its client at once \[default\: another key at each start\]]:FILE:_files' \
'--geneve=[Offer servers a Geneve tunnel by which they get clients'\'' packets as they are; wants --secret \[default\: off\]]::on|off:(on off)' \
'--state=[File with the entries that the gateway made without a server; made if it does not exist. With it, connections to hosts without a server go on after a restart \[default\: none\]]:FILE:_files' \
'--log=[File to append a line to for each entry that is made or gone, in the form of the server'\''s log, - for standard output \[default\: none\]]:FILE|-:_files' \
'--metrics=[Address and port at which its counters can be read over HTTP, or off \[default\: off\]]:ADDR:PORT|off:(off)' \
'--zero-traffic-class[Traffic class and type of service become 0, and not one the other]' \
'--drop-unsummed-udp[UDP datagrams that come without a checksum, as they may in IPv4, are dropped; else they get one]' \
'-h[Print help]' \
'--help[Print help]' \
&& ret=0
;;
(journal)
_arguments "${_arguments_options[@]}" : \
'-h[Print help]' \
'--help[Print help]' \
":: :_nat64handoff__subcmd__journal_commands" \
"*::: :->journal" \
&& ret=0

    case $state in
    (journal)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:nat64handoff-journal-command-$line[1]:"
        case $line[1] in
            (check)
_arguments "${_arguments_options[@]}" : \
'-h[Print help]' \
'--help[Print help]' \
':dir -- The state directory:_files' \
&& ret=0
;;
(repair)
_arguments "${_arguments_options[@]}" : \
'-h[Print help]' \
'--help[Print help]' \
':dir -- The state directory:_files' \
&& ret=0
;;
(help)
_arguments "${_arguments_options[@]}" : \
":: :_nat64handoff__subcmd__journal__subcmd__help_commands" \
"*::: :->help" \
&& ret=0

    case $state in
    (help)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:nat64handoff-journal-help-command-$line[1]:"
        case $line[1] in
            (check)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(repair)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(help)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
        esac
    ;;
esac
;;
        esac
    ;;
esac
;;
(check-config)
_arguments "${_arguments_options[@]}" : \
'*--listen=[IPv4 address and port to take requests at; may be repeated, with the same port \[default\: 0.0.0.0\:64064\]]:ADDR[:PORT]:_default' \
'--port=[The port of each --listen that names none \[default\: 64064\]]:N:_default' \
'*--allow=[Serve only NAT64s in this network; may be repeated \[default\: all\]]:CIDR:_default' \
'*--deny=[Do not serve NAT64s in this network, even if allowed; may be repeated \[default\: none\]]:CIDR:_default' \
'--reactors=[Number of threads that handle requests, 1 to 256 \[default\: one per available CPU\]]:N:_default' \
'--io=[How datagrams are received and sent\: by io_uring, by recvmmsg and sendmmsg, or auto\: by io_uring where it is allowed \[default\: auto\]]:auto|uring|mmsg:(auto uring mmsg)' \
'--state=[Directory for the state; made if it does not exist \[default\: \$STATE_DIRECTORY or ./state\]]:DIR:_files' \
'--log=[File to append the event log to, - for standard output \[default\: \$LOGS_DIRECTORY/events.log or -\]]:FILE|-:_files' \
'--log-format=[full\: name the local address and the NAT64 prefix in each line, too; json\: all of that as JSON lines \[default\: plain\]]:plain|full|json:(plain full json)' \
'--history=[Folder for the history, by which the log is asked; off\: none is built \[default\: history beside the log'\''s file\]]:DIR|off:_files' \
'--log-keep=[Days for which files of former days of the log and its history are kept; 0\: for ever \[default\: 180\]]:DAYS:_default' \
'--sync=[When the journal is made durable\: whenever the kernel likes, before each answer that depends on it, or so often \[default\: interval\:100ms\]]:none|always|interval:DURATION:(none always)' \
'--max-nat64s=[NAT64s to serve at most; then the least worthy makes room \[default\: 1000\]]:N:_default' \
'--max-entries=[Entries to hold at most, for all NAT64s together \[default\: what fits in a quarter of the memory that it may have\]]:N:_default' \
'--client-share=[Share of a NAT64'\''s ports that one client network (/64) may have, 1/1024 to 1 \[default\: 0.125\]]:F:_default' \
'--validation-rate=[Validation packets to send at most in a second \[default\: 10000\]]:N:_default' \
'--create-rate=[Entries to create for one NAT64 at most in a second, after two whole tables at once \[default\: 2000\]]:N:_default' \
'--peer-names=[Programs on this host see the clients of NAT64s as their peers, once peer-names attach was run\: ipv6\: those that listen at \`\[\:\:\]\`; ipv4\: those that listen at 0.0.0.0, by addresses of --peer-pool \[default\: off\]]:off|ipv6|ipv4|both:(off both)' \
'--peer-maps=[Where peer-names attach has the maps of these names \[default\: /sys/fs/bpf/nat64handoff\]]:DIR:_files' \
'--peer-pool=[Network of the IPv4 addresses that stand for clients (--peer-names ipv4, --deliver translate)\: none that is in use \[default\: 100.64.0.0/12\]]:NET:_default' \
'--peer-pool-for=[For whom such an address stands\: for all clients of a /64, or for each client address, as always with --deliver translate \[default\: prefix64\]]:prefix64|address:(address)' \
'--peer-pool-idle=[How long such an address is kept for clients that have no entry (with --deliver translate, 2 h 4 min or more); each start begins anew \[default\: 1h\]]:DURATION:_default' \
'--deliver=[How packets of clients reach programs on this host\: cache\: their NAT64 translates them; native\: this server delivers them as they are, through --deliver-device; translate\: it delivers them as IPv4, from an address of --peer-pool for each client; auto\: native where a socket of IPv6 takes the port'\''s packets, else cache \[default\: cache\]]:cache|native|translate|auto:(cache native translate auto)' \
'*--deliver-port=[The same for packets to this port alone, like 80=native; may be repeated \[default\: none\]]:PORT=HOW:_default' \
'--deliver-device=[The TUN device through which packets are delivered \[default\: ho0\]]:NAME:_default' \
'*--deliver-service=[IPv6 address by which clients reach this host, behind a NAT64'\''s prefix, like 64\:ff9b\:\:203.0.113.5; may be repeated \[default\: those that the device has\]]:ADDRESS:_default' \
'--geneve=[Take offers of NAT64s to send clients'\'' packets through a Geneve tunnel, at UDP port 6081; what comes so is delivered natively, or translated where its port is\: needs --deliver native \[default\: off\]]::on|off:(on off)' \
'*--fleet=[Share the tables with the other hosts that have the same addresses, on etcd\: http\://HOST\:PORT of each of its nodes; may be repeated \[default\: none\]]:URL:_default' \
'--fleet-cell=[Name of the cell\: those hosts \[default\: main\]]:NAME:_default' \
'--fleet-host=[Number of this host, which no other of the cell has \[default\: off\]]:N|off:_default' \
'--fleet-address=[Address of this host alone, and a UDP port, to which the others pass requests on \[default\: off\]]:ADDR:PORT|off:(off)' \
'--fleet-fold=[Octets of records in etcd at which they are folded into snapshots \[default\: 64M\]]:N:_default' \
'--fleet-withdraw=[How long a host that stops goes on after /readyz has failed, so that its route is withdrawn \[default\: 2s\]]:DURATION:_default' \
'--fleet-authority=[File with the certificate that those of etcd are signed with, for https \[default\: off\]]:FILE|off:_files' \
'--fleet-certificate=[File with this host'\''s certificate for etcd \[default\: off\]]:FILE|off:_files' \
'--fleet-key=[File with its key \[default\: off\]]:FILE|off:_files' \
'--admin=[Unix socket at which \`status\` and the like ask the server, over HTTP; off\: none \[default\: \$RUNTIME_DIRECTORY/admin.sock, or admin.sock in the state directory\]]:PATH|off:_files' \
'--web=[Address and port at which the same is served over TCP, or off \[default\: off\]]:ADDR:PORT|off:(off)' \
'--web-token-file=[File with the token that --web asks for, of at least 16 characters; needed for other addresses than loopback \[default\: off\]]:FILE|off:_files' \
'--config=[TOML file with options]:FILE:_files' \
'--no-journal[Keep no journal\: nothing survives. For measurements]' \
'--host[Print what --deliver needs of this host, as commands, and which of them were done]' \
'--networkd[With --host\: print it as commands that write files of systemd-networkd]' \
'-h[Print help]' \
'--help[Print help]' \
&& ret=0
;;
(self-check)
_arguments "${_arguments_options[@]}" : \
'*--listen=[IPv4 address and port to take requests at; may be repeated, with the same port \[default\: 0.0.0.0\:64064\]]:ADDR[:PORT]:_default' \
'--port=[The port of each --listen that names none \[default\: 64064\]]:N:_default' \
'*--allow=[Serve only NAT64s in this network; may be repeated \[default\: all\]]:CIDR:_default' \
'*--deny=[Do not serve NAT64s in this network, even if allowed; may be repeated \[default\: none\]]:CIDR:_default' \
'--reactors=[Number of threads that handle requests, 1 to 256 \[default\: one per available CPU\]]:N:_default' \
'--io=[How datagrams are received and sent\: by io_uring, by recvmmsg and sendmmsg, or auto\: by io_uring where it is allowed \[default\: auto\]]:auto|uring|mmsg:(auto uring mmsg)' \
'--state=[Directory for the state; made if it does not exist \[default\: \$STATE_DIRECTORY or ./state\]]:DIR:_files' \
'--log=[File to append the event log to, - for standard output \[default\: \$LOGS_DIRECTORY/events.log or -\]]:FILE|-:_files' \
'--log-format=[full\: name the local address and the NAT64 prefix in each line, too; json\: all of that as JSON lines \[default\: plain\]]:plain|full|json:(plain full json)' \
'--history=[Folder for the history, by which the log is asked; off\: none is built \[default\: history beside the log'\''s file\]]:DIR|off:_files' \
'--log-keep=[Days for which files of former days of the log and its history are kept; 0\: for ever \[default\: 180\]]:DAYS:_default' \
'--sync=[When the journal is made durable\: whenever the kernel likes, before each answer that depends on it, or so often \[default\: interval\:100ms\]]:none|always|interval:DURATION:(none always)' \
'--max-nat64s=[NAT64s to serve at most; then the least worthy makes room \[default\: 1000\]]:N:_default' \
'--max-entries=[Entries to hold at most, for all NAT64s together \[default\: what fits in a quarter of the memory that it may have\]]:N:_default' \
'--client-share=[Share of a NAT64'\''s ports that one client network (/64) may have, 1/1024 to 1 \[default\: 0.125\]]:F:_default' \
'--validation-rate=[Validation packets to send at most in a second \[default\: 10000\]]:N:_default' \
'--create-rate=[Entries to create for one NAT64 at most in a second, after two whole tables at once \[default\: 2000\]]:N:_default' \
'--peer-names=[Programs on this host see the clients of NAT64s as their peers, once peer-names attach was run\: ipv6\: those that listen at \`\[\:\:\]\`; ipv4\: those that listen at 0.0.0.0, by addresses of --peer-pool \[default\: off\]]:off|ipv6|ipv4|both:(off both)' \
'--peer-maps=[Where peer-names attach has the maps of these names \[default\: /sys/fs/bpf/nat64handoff\]]:DIR:_files' \
'--peer-pool=[Network of the IPv4 addresses that stand for clients (--peer-names ipv4, --deliver translate)\: none that is in use \[default\: 100.64.0.0/12\]]:NET:_default' \
'--peer-pool-for=[For whom such an address stands\: for all clients of a /64, or for each client address, as always with --deliver translate \[default\: prefix64\]]:prefix64|address:(address)' \
'--peer-pool-idle=[How long such an address is kept for clients that have no entry (with --deliver translate, 2 h 4 min or more); each start begins anew \[default\: 1h\]]:DURATION:_default' \
'--deliver=[How packets of clients reach programs on this host\: cache\: their NAT64 translates them; native\: this server delivers them as they are, through --deliver-device; translate\: it delivers them as IPv4, from an address of --peer-pool for each client; auto\: native where a socket of IPv6 takes the port'\''s packets, else cache \[default\: cache\]]:cache|native|translate|auto:(cache native translate auto)' \
'*--deliver-port=[The same for packets to this port alone, like 80=native; may be repeated \[default\: none\]]:PORT=HOW:_default' \
'--deliver-device=[The TUN device through which packets are delivered \[default\: ho0\]]:NAME:_default' \
'*--deliver-service=[IPv6 address by which clients reach this host, behind a NAT64'\''s prefix, like 64\:ff9b\:\:203.0.113.5; may be repeated \[default\: those that the device has\]]:ADDRESS:_default' \
'--geneve=[Take offers of NAT64s to send clients'\'' packets through a Geneve tunnel, at UDP port 6081; what comes so is delivered natively, or translated where its port is\: needs --deliver native \[default\: off\]]::on|off:(on off)' \
'*--fleet=[Share the tables with the other hosts that have the same addresses, on etcd\: http\://HOST\:PORT of each of its nodes; may be repeated \[default\: none\]]:URL:_default' \
'--fleet-cell=[Name of the cell\: those hosts \[default\: main\]]:NAME:_default' \
'--fleet-host=[Number of this host, which no other of the cell has \[default\: off\]]:N|off:_default' \
'--fleet-address=[Address of this host alone, and a UDP port, to which the others pass requests on \[default\: off\]]:ADDR:PORT|off:(off)' \
'--fleet-fold=[Octets of records in etcd at which they are folded into snapshots \[default\: 64M\]]:N:_default' \
'--fleet-withdraw=[How long a host that stops goes on after /readyz has failed, so that its route is withdrawn \[default\: 2s\]]:DURATION:_default' \
'--fleet-authority=[File with the certificate that those of etcd are signed with, for https \[default\: off\]]:FILE|off:_files' \
'--fleet-certificate=[File with this host'\''s certificate for etcd \[default\: off\]]:FILE|off:_files' \
'--fleet-key=[File with its key \[default\: off\]]:FILE|off:_files' \
'--admin=[Unix socket at which \`status\` and the like ask the server, over HTTP; off\: none \[default\: \$RUNTIME_DIRECTORY/admin.sock, or admin.sock in the state directory\]]:PATH|off:_files' \
'--web=[Address and port at which the same is served over TCP, or off \[default\: off\]]:ADDR:PORT|off:(off)' \
'--web-token-file=[File with the token that --web asks for, of at least 16 characters; needed for other addresses than loopback \[default\: off\]]:FILE|off:_files' \
'--config=[TOML file with options]:FILE:_files' \
'--no-journal[Keep no journal\: nothing survives. For measurements]' \
'--start[Check a server that is started for that, on loopback, with this state directory and log]' \
'-h[Print help]' \
'--help[Print help]' \
&& ret=0
;;
(who)
_arguments "${_arguments_options[@]}" : \
'--at=[When, in UTC unless a zone is written; to the minute or second\: all of that; two with .. between\: from, to \[default\: now; of a client\: ever\]]:TIME:_default' \
'--to=[Only connections to this address of the server]:ADDRESS:_default' \
'--log=[The event log; - for standard input \[default\: that of \`serve\`\]]:FILE:_files' \
'--history=[The history'\''s folder; off\: read the event log alone \[default\: beside the log\]]:DIR|off:_files' \
'--config=[The file of options that \`serve\` has]:FILE:_files' \
'(--log --history --config)--fleet=[A folder with one for each host of a fleet, with its events.log, the files of former days and history, or with what history copy put there\: all are asked together; a bucket is s3\://BUCKET/PREFIX]:DIR:_default' \
'--json[Print JSON\: one object]' \
'-h[Print help]' \
'--help[Print help]' \
':who -- A NAT64'\''s address and port, as 192.0.2.7\:3719; an address of the pool of peer names, as 100.64.0.7; or a client, as 2001\:db8\:\:17 or 2001\:db8\:\:/64:_default' \
&& ret=0
;;
(follow)
_arguments "${_arguments_options[@]}" : \
'--from=[Where to begin\: start, now, or a time as \`who --at\` takes it. What --cursor has goes first]:start|now|TIME:_default' \
'(--from --cursor)--after=[Begin behind this line\: its "cursor", as --json told it]:CURSOR:_default' \
'--cursor=[Keep in this file how far it came, and go on from there]:FILE:_files' \
'(--json)--to=[Send the events there instead\: journald, syslog+unix\:PATH, syslog+udp\://HOST\:PORT, syslog+tcp\://HOST\:PORT, ipfix+udp\://HOST\:PORT or ipfix+tcp\://HOST\:PORT]:COLLECTOR:_default' \
'--log=[The event log \[default\: that of \`serve\`\]]:FILE:_files' \
'--config=[The file of options that \`serve\` has]:FILE:_files' \
'--json[Print JSON\: an object for each event, with its cursor]' \
'--no-wait[End where the log ends, instead of waiting for more]' \
'-h[Print help]' \
'--help[Print help]' \
&& ret=0
;;
(annotate)
_arguments "${_arguments_options[@]}" : \
'--pattern=[The shape of the lines\: a regular expression with groups (?<ip>...), (?<port>...) and, if there is one, (?<time>...)]:REGEX:_default' \
'--to=[The address of the server that this access log is about, where it has several]:ADDRESS:_default' \
'--log=[The event log \[default\: that of \`serve\`\]]:FILE:_files' \
'--history=[The history'\''s folder; off\: read the event log alone \[default\: beside the log\]]:DIR|off:_files' \
'--config=[The file of options that \`serve\` has]:FILE:_files' \
'--append[Leave each line as it is, and put the client behind it]' \
'--now[Take lines without a time as being of now, as they are written]' \
'--newcomer[Where a port came to another client within the second that a line tells, name that one; else the line stays as it is]' \
'-h[Print help]' \
'--help[Print help]' \
'*::files -- Access logs, in the order of time; those whose names end in .gz are compressed \[default\: standard input\]:_files' \
&& ret=0
;;
(status)
_arguments "${_arguments_options[@]}" : \
'--tables=[How many tables it shows, the fullest first \[default\: 20; of JSON\: 1000\]]:N:_default' \
'--admin=[The admin socket \[default\: that of \`serve\`\]]:PATH:_files' \
'--config=[The file of options that \`serve\` has]:FILE:_files' \
'--json[Print JSON\: one object]' \
'-h[Print help]' \
'--help[Print help]' \
&& ret=0
;;
(top)
_arguments "${_arguments_options[@]}" : \
'--admin=[The admin socket \[default\: that of \`serve\`\]]:PATH:_files' \
'--config=[The file of options that \`serve\` has]:FILE:_files' \
'-h[Print help]' \
'--help[Print help]' \
&& ret=0
;;
(table)
_arguments "${_arguments_options[@]}" : \
'--client=[Only the entries of this client, or of those in this network]:PREFIX:_default' \
'--admin=[The admin socket \[default\: that of \`serve\`\]]:PATH:_files' \
'--config=[The file of options that \`serve\` has]:FILE:_files' \
'--json[Print JSON\: one object]' \
'-h[Print help]' \
'--help[Print help]' \
':nat64 -- The address of the NAT64:_default' \
&& ret=0
;;
(identities)
_arguments "${_arguments_options[@]}" : \
'--admin=[The admin socket \[default\: that of \`serve\`\]]:PATH:_files' \
'--config=[The file of options that \`serve\` has]:FILE:_files' \
'--json[Print JSON\: one object]' \
'-h[Print help]' \
'--help[Print help]' \
&& ret=0
;;
(drop-table)
_arguments "${_arguments_options[@]}" : \
'--admin=[The admin socket \[default\: that of \`serve\`\]]:PATH:_files' \
'--config=[The file of options that \`serve\` has]:FILE:_files' \
'--yes[Do not ask whether that is meant]' \
'--json[Print JSON\: one object]' \
'-h[Print help]' \
'--help[Print help]' \
':nat64 -- The address of the NAT64:_default' \
&& ret=0
;;
(ban)
_arguments "${_arguments_options[@]}" : \
'--for=[How long, as 10m or 2h \[default\: until unban\]]:DURATION:_default' \
'--admin=[The admin socket \[default\: that of \`serve\`\]]:PATH:_files' \
'--config=[The file of options that \`serve\` has]:FILE:_files' \
'--kill[End its TCP connections, too\: where \`ban-set\` runs]' \
'--wide[Ban also more clients than a /32 has]' \
'--json[Print JSON\: one object]' \
'-h[Print help]' \
'--help[Print help]' \
':client -- The client'\''s IPv6 address, or a network of clients:_default' \
&& ret=0
;;
(unban)
_arguments "${_arguments_options[@]}" : \
'--admin=[The admin socket \[default\: that of \`serve\`\]]:PATH:_files' \
'--config=[The file of options that \`serve\` has]:FILE:_files' \
'--json[Print JSON\: one object]' \
'-h[Print help]' \
'--help[Print help]' \
':client -- As it was banned\: see `bans`:_default' \
&& ret=0
;;
(bans)
_arguments "${_arguments_options[@]}" : \
'--admin=[The admin socket \[default\: that of \`serve\`\]]:PATH:_files' \
'--config=[The file of options that \`serve\` has]:FILE:_files' \
'--json[Print JSON\: one object]' \
'-h[Print help]' \
'--help[Print help]' \
&& ret=0
;;
(fleet)
_arguments "${_arguments_options[@]}" : \
'-h[Print help]' \
'--help[Print help]' \
":: :_nat64handoff__subcmd__fleet_commands" \
"*::: :->fleet" \
&& ret=0

    case $state in
    (fleet)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:nat64handoff-fleet-command-$line[1]:"
        case $line[1] in
            (drain)
_arguments "${_arguments_options[@]}" : \
'--admin=[The admin socket \[default\: that of \`serve\`\]]:PATH:_files' \
'--config=[The file of options that \`serve\` has]:FILE:_files' \
'--json[Print JSON\: one object]' \
'-h[Print help]' \
'--help[Print help]' \
&& ret=0
;;
(help)
_arguments "${_arguments_options[@]}" : \
":: :_nat64handoff__subcmd__fleet__subcmd__help_commands" \
"*::: :->help" \
&& ret=0

    case $state in
    (help)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:nat64handoff-fleet-help-command-$line[1]:"
        case $line[1] in
            (drain)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(help)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
        esac
    ;;
esac
;;
        esac
    ;;
esac
;;
(ban-set)
_arguments "${_arguments_options[@]}" : \
'--set=[The set of nftables\: family (inet or ip), table and name]:SET:_default' \
'--admin=[The admin socket \[default\: that of \`serve\`\]]:PATH:_files' \
'--config=[The file of options that \`serve\` has]:FILE:_files' \
'-h[Print help]' \
'--help[Print help]' \
&& ret=0
;;
(history)
_arguments "${_arguments_options[@]}" : \
'-h[Print help]' \
'--help[Print help]' \
":: :_nat64handoff__subcmd__history_commands" \
"*::: :->history" \
&& ret=0

    case $state in
    (history)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:nat64handoff-history-command-$line[1]:"
        case $line[1] in
            (build)
_arguments "${_arguments_options[@]}" : \
'--log=[The event log \[default\: that of \`serve\`\]]:FILE:_files' \
'--history=[The history'\''s folder \[default\: beside the log\]]:DIR:_files' \
'--config=[The file of options that \`serve\` has]:FILE:_files' \
'-h[Print help]' \
'--help[Print help]' \
&& ret=0
;;
(check)
_arguments "${_arguments_options[@]}" : \
'--log=[The event log \[default\: that of \`serve\`\]]:FILE:_files' \
'--history=[The history'\''s folder \[default\: beside the log\]]:DIR:_files' \
'--config=[The file of options that \`serve\` has]:FILE:_files' \
'-h[Print help]' \
'--help[Print help]' \
&& ret=0
;;
(copy)
_arguments "${_arguments_options[@]}" : \
'--to=[Where to\: a directory, or a bucket as s3\://BUCKET/PREFIX]:DIR|s3://BUCKET/PREFIX:_default' \
'--host=[The folder there that is this host'\''s alone \[default\: the name of this machine\]]:NAME:_default' \
'--log=[The event log \[default\: that of \`serve\`\]]:FILE:_files' \
'--history=[The history'\''s folder \[default\: beside the log\]]:DIR:_files' \
'--config=[The file of options that \`serve\` has]:FILE:_files' \
'--delete[Remove files there that the history here does not have any more]' \
'-h[Print help]' \
'--help[Print help]' \
&& ret=0
;;
(help)
_arguments "${_arguments_options[@]}" : \
":: :_nat64handoff__subcmd__history__subcmd__help_commands" \
"*::: :->help" \
&& ret=0

    case $state in
    (help)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:nat64handoff-history-help-command-$line[1]:"
        case $line[1] in
            (build)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(check)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(copy)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(help)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
        esac
    ;;
esac
;;
        esac
    ;;
esac
;;
(peer-names)
_arguments "${_arguments_options[@]}" : \
'-h[Print help]' \
'--help[Print help]' \
":: :_nat64handoff__subcmd__peer-names_commands" \
"*::: :->peer-names" \
&& ret=0

    case $state in
    (peer-names)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:nat64handoff-peer-names-command-$line[1]:"
        case $line[1] in
            (attach)
_arguments "${_arguments_options[@]}" : \
'*--cgroup=[Name peers only to the programs in this control group v2, as that of a slice; may be repeated \[default\: the root, so all programs\]]:DIR:_files' \
'--peer-names=[At which sockets peers are named, as serve has it]:ipv6|ipv4|both:_default' \
'--names-max=[The most names\: 97 octets of memory for each, at once]:N:_default' \
'--user=[The user that the server runs as]:NAME:_default' \
'--maps=[The directory of the maps, in a bpffs]:DIR:_files' \
'-h[Print help]' \
'--help[Print help]' \
&& ret=0
;;
(detach)
_arguments "${_arguments_options[@]}" : \
'--maps=[The directory of the maps, in a bpffs]:DIR:_files' \
'-h[Print help]' \
'--help[Print help]' \
&& ret=0
;;
(status)
_arguments "${_arguments_options[@]}" : \
'--maps=[The directory of the maps, in a bpffs]:DIR:_files' \
'--json[Print JSON\: one object]' \
'-h[Print help]' \
'--help[Print help]' \
&& ret=0
;;
(help)
_arguments "${_arguments_options[@]}" : \
":: :_nat64handoff__subcmd__peer-names__subcmd__help_commands" \
"*::: :->help" \
&& ret=0

    case $state in
    (help)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:nat64handoff-peer-names-help-command-$line[1]:"
        case $line[1] in
            (attach)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(detach)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(status)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(help)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
        esac
    ;;
esac
;;
        esac
    ;;
esac
;;
(deliver-device)
_arguments "${_arguments_options[@]}" : \
'-h[Print help]' \
'--help[Print help]' \
":: :_nat64handoff__subcmd__deliver-device_commands" \
"*::: :->deliver-device" \
&& ret=0

    case $state in
    (deliver-device)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:nat64handoff-deliver-device-command-$line[1]:"
        case $line[1] in
            (make)
_arguments "${_arguments_options[@]}" : \
'--config=[The file of options that \`serve\` has]:FILE:_files' \
'-h[Print help]' \
'--help[Print help]' \
&& ret=0
;;
(remove)
_arguments "${_arguments_options[@]}" : \
'--config=[The file of options that \`serve\` has]:FILE:_files' \
'-h[Print help]' \
'--help[Print help]' \
&& ret=0
;;
(help)
_arguments "${_arguments_options[@]}" : \
":: :_nat64handoff__subcmd__deliver-device__subcmd__help_commands" \
"*::: :->help" \
&& ret=0

    case $state in
    (help)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:nat64handoff-deliver-device-help-command-$line[1]:"
        case $line[1] in
            (make)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(remove)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(help)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
        esac
    ;;
esac
;;
        esac
    ;;
esac
;;
(completions)
_arguments "${_arguments_options[@]}" : \
'-h[Print help]' \
'--help[Print help]' \
':shell -- Which shell:(bash elvish fish powershell zsh)' \
&& ret=0
;;
(man)
_arguments "${_arguments_options[@]}" : \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
'::page -- Which page:((nat64handoff\:"The program and its commands\: section 8"
nat64handoff.toml\:"The file of --config\: section 5"))' \
&& ret=0
;;
(help)
_arguments "${_arguments_options[@]}" : \
":: :_nat64handoff__subcmd__help_commands" \
"*::: :->help" \
&& ret=0

    case $state in
    (help)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:nat64handoff-help-command-$line[1]:"
        case $line[1] in
            (serve)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(demo)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(gateway)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(journal)
_arguments "${_arguments_options[@]}" : \
":: :_nat64handoff__subcmd__help__subcmd__journal_commands" \
"*::: :->journal" \
&& ret=0

    case $state in
    (journal)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:nat64handoff-help-journal-command-$line[1]:"
        case $line[1] in
            (check)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(repair)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
        esac
    ;;
esac
;;
(check-config)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(self-check)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(who)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(follow)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(annotate)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(status)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(top)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(table)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(identities)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(drop-table)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(ban)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(unban)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(bans)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(fleet)
_arguments "${_arguments_options[@]}" : \
":: :_nat64handoff__subcmd__help__subcmd__fleet_commands" \
"*::: :->fleet" \
&& ret=0

    case $state in
    (fleet)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:nat64handoff-help-fleet-command-$line[1]:"
        case $line[1] in
            (drain)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
        esac
    ;;
esac
;;
(ban-set)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(history)
_arguments "${_arguments_options[@]}" : \
":: :_nat64handoff__subcmd__help__subcmd__history_commands" \
"*::: :->history" \
&& ret=0

    case $state in
    (history)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:nat64handoff-help-history-command-$line[1]:"
        case $line[1] in
            (build)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(check)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(copy)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
        esac
    ;;
esac
;;
(peer-names)
_arguments "${_arguments_options[@]}" : \
":: :_nat64handoff__subcmd__help__subcmd__peer-names_commands" \
"*::: :->peer-names" \
&& ret=0

    case $state in
    (peer-names)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:nat64handoff-help-peer-names-command-$line[1]:"
        case $line[1] in
            (attach)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(detach)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(status)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
        esac
    ;;
esac
;;
(deliver-device)
_arguments "${_arguments_options[@]}" : \
":: :_nat64handoff__subcmd__help__subcmd__deliver-device_commands" \
"*::: :->deliver-device" \
&& ret=0

    case $state in
    (deliver-device)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:nat64handoff-help-deliver-device-command-$line[1]:"
        case $line[1] in
            (make)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(remove)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
        esac
    ;;
esac
;;
(completions)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(man)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(help)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
        esac
    ;;
esac
;;
        esac
    ;;
esac
}

(( $+functions[_nat64handoff_commands] )) ||
_nat64handoff_commands() {
    local commands; commands=(
'serve:Run the server' \
'demo:Run a server and a NAT64 in one process, on loopback, to see what it looks like' \
'gateway:Run a NAT64 that hands its connections over, on a TUN device' \
'journal:Look into the journal of a server that is not running' \
'check-config:Print the configuration that \`serve\` would use, and where each value comes from' \
'self-check:Ask the server that runs with these options as a NAT64 would, from loopback' \
'who:Say who was behind a NAT64'\''s address and port, or where a client was' \
'follow:Print the events as they come, from any point in the past on, or send them to a collector' \
'annotate:Copy an access log, with the client in the place of each NAT64' \
'status:Say how the server is doing, and what it holds' \
'top:Show the same on the terminal, as it changes' \
'table:Print the entries of a NAT64'\''s table, as the server has them' \
'identities:Print the control identities of all NAT64s, as the server knows them' \
'drop-table:Have the server forget a NAT64\: a \`Deleted\` for each entry stands in the event log' \
'ban:Give a client no connection any more, and its NAT64'\''s other clients theirs' \
'unban:Give a client connections again' \
'bans:Print who is banned, and until when' \
'fleet:Have the server share its tables in another way with the other hosts of its fleet' \
'ban-set:Keep the ports of banned clients in a set of nftables, and end connections for \`ban --kill\`' \
'history:Make the history of an event log, by which \`who\` asks it, check it, or copy it' \
'peer-names:Have programs on this host see the clients of NAT64s as their peers' \
'deliver-device:Make or remove the TUN device through which a server delivers' \
'completions:Print completions of this command line for a shell' \
'man:Print a page of the manual' \
'help:Print this message or the help of the given subcommand(s)' \
    )
    _describe -t commands 'nat64handoff commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__annotate_commands] )) ||
_nat64handoff__subcmd__annotate_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff annotate commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__ban_commands] )) ||
_nat64handoff__subcmd__ban_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff ban commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__ban-set_commands] )) ||
_nat64handoff__subcmd__ban-set_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff ban-set commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__bans_commands] )) ||
_nat64handoff__subcmd__bans_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff bans commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__check-config_commands] )) ||
_nat64handoff__subcmd__check-config_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff check-config commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__completions_commands] )) ||
_nat64handoff__subcmd__completions_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff completions commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__deliver-device_commands] )) ||
_nat64handoff__subcmd__deliver-device_commands() {
    local commands; commands=(
'make:Make device, addresses, routes and rules, as far as they are not there; as root' \
'remove:Remove them; as root' \
'help:Print this message or the help of the given subcommand(s)' \
    )
    _describe -t commands 'nat64handoff deliver-device commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__deliver-device__subcmd__help_commands] )) ||
_nat64handoff__subcmd__deliver-device__subcmd__help_commands() {
    local commands; commands=(
'make:Make device, addresses, routes and rules, as far as they are not there; as root' \
'remove:Remove them; as root' \
'help:Print this message or the help of the given subcommand(s)' \
    )
    _describe -t commands 'nat64handoff deliver-device help commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__deliver-device__subcmd__help__subcmd__help_commands] )) ||
_nat64handoff__subcmd__deliver-device__subcmd__help__subcmd__help_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff deliver-device help help commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__deliver-device__subcmd__help__subcmd__make_commands] )) ||
_nat64handoff__subcmd__deliver-device__subcmd__help__subcmd__make_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff deliver-device help make commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__deliver-device__subcmd__help__subcmd__remove_commands] )) ||
_nat64handoff__subcmd__deliver-device__subcmd__help__subcmd__remove_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff deliver-device help remove commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__deliver-device__subcmd__make_commands] )) ||
_nat64handoff__subcmd__deliver-device__subcmd__make_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff deliver-device make commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__deliver-device__subcmd__remove_commands] )) ||
_nat64handoff__subcmd__deliver-device__subcmd__remove_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff deliver-device remove commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__demo_commands] )) ||
_nat64handoff__subcmd__demo_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff demo commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__drop-table_commands] )) ||
_nat64handoff__subcmd__drop-table_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff drop-table commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__fleet_commands] )) ||
_nat64handoff__subcmd__fleet_commands() {
    local commands; commands=(
'drain:Have it give all its tables to other hosts, and get none until it is started again' \
'help:Print this message or the help of the given subcommand(s)' \
    )
    _describe -t commands 'nat64handoff fleet commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__fleet__subcmd__drain_commands] )) ||
_nat64handoff__subcmd__fleet__subcmd__drain_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff fleet drain commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__fleet__subcmd__help_commands] )) ||
_nat64handoff__subcmd__fleet__subcmd__help_commands() {
    local commands; commands=(
'drain:Have it give all its tables to other hosts, and get none until it is started again' \
'help:Print this message or the help of the given subcommand(s)' \
    )
    _describe -t commands 'nat64handoff fleet help commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__fleet__subcmd__help__subcmd__drain_commands] )) ||
_nat64handoff__subcmd__fleet__subcmd__help__subcmd__drain_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff fleet help drain commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__fleet__subcmd__help__subcmd__help_commands] )) ||
_nat64handoff__subcmd__fleet__subcmd__help__subcmd__help_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff fleet help help commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__follow_commands] )) ||
_nat64handoff__subcmd__follow_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff follow commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__gateway_commands] )) ||
_nat64handoff__subcmd__gateway_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff gateway commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__help_commands] )) ||
_nat64handoff__subcmd__help_commands() {
    local commands; commands=(
'serve:Run the server' \
'demo:Run a server and a NAT64 in one process, on loopback, to see what it looks like' \
'gateway:Run a NAT64 that hands its connections over, on a TUN device' \
'journal:Look into the journal of a server that is not running' \
'check-config:Print the configuration that \`serve\` would use, and where each value comes from' \
'self-check:Ask the server that runs with these options as a NAT64 would, from loopback' \
'who:Say who was behind a NAT64'\''s address and port, or where a client was' \
'follow:Print the events as they come, from any point in the past on, or send them to a collector' \
'annotate:Copy an access log, with the client in the place of each NAT64' \
'status:Say how the server is doing, and what it holds' \
'top:Show the same on the terminal, as it changes' \
'table:Print the entries of a NAT64'\''s table, as the server has them' \
'identities:Print the control identities of all NAT64s, as the server knows them' \
'drop-table:Have the server forget a NAT64\: a \`Deleted\` for each entry stands in the event log' \
'ban:Give a client no connection any more, and its NAT64'\''s other clients theirs' \
'unban:Give a client connections again' \
'bans:Print who is banned, and until when' \
'fleet:Have the server share its tables in another way with the other hosts of its fleet' \
'ban-set:Keep the ports of banned clients in a set of nftables, and end connections for \`ban --kill\`' \
'history:Make the history of an event log, by which \`who\` asks it, check it, or copy it' \
'peer-names:Have programs on this host see the clients of NAT64s as their peers' \
'deliver-device:Make or remove the TUN device through which a server delivers' \
'completions:Print completions of this command line for a shell' \
'man:Print a page of the manual' \
'help:Print this message or the help of the given subcommand(s)' \
    )
    _describe -t commands 'nat64handoff help commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__help__subcmd__annotate_commands] )) ||
_nat64handoff__subcmd__help__subcmd__annotate_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff help annotate commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__help__subcmd__ban_commands] )) ||
_nat64handoff__subcmd__help__subcmd__ban_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff help ban commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__help__subcmd__ban-set_commands] )) ||
_nat64handoff__subcmd__help__subcmd__ban-set_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff help ban-set commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__help__subcmd__bans_commands] )) ||
_nat64handoff__subcmd__help__subcmd__bans_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff help bans commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__help__subcmd__check-config_commands] )) ||
_nat64handoff__subcmd__help__subcmd__check-config_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff help check-config commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__help__subcmd__completions_commands] )) ||
_nat64handoff__subcmd__help__subcmd__completions_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff help completions commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__help__subcmd__deliver-device_commands] )) ||
_nat64handoff__subcmd__help__subcmd__deliver-device_commands() {
    local commands; commands=(
'make:Make device, addresses, routes and rules, as far as they are not there; as root' \
'remove:Remove them; as root' \
    )
    _describe -t commands 'nat64handoff help deliver-device commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__help__subcmd__deliver-device__subcmd__make_commands] )) ||
_nat64handoff__subcmd__help__subcmd__deliver-device__subcmd__make_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff help deliver-device make commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__help__subcmd__deliver-device__subcmd__remove_commands] )) ||
_nat64handoff__subcmd__help__subcmd__deliver-device__subcmd__remove_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff help deliver-device remove commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__help__subcmd__demo_commands] )) ||
_nat64handoff__subcmd__help__subcmd__demo_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff help demo commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__help__subcmd__drop-table_commands] )) ||
_nat64handoff__subcmd__help__subcmd__drop-table_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff help drop-table commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__help__subcmd__fleet_commands] )) ||
_nat64handoff__subcmd__help__subcmd__fleet_commands() {
    local commands; commands=(
'drain:Have it give all its tables to other hosts, and get none until it is started again' \
    )
    _describe -t commands 'nat64handoff help fleet commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__help__subcmd__fleet__subcmd__drain_commands] )) ||
_nat64handoff__subcmd__help__subcmd__fleet__subcmd__drain_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff help fleet drain commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__help__subcmd__follow_commands] )) ||
_nat64handoff__subcmd__help__subcmd__follow_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff help follow commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__help__subcmd__gateway_commands] )) ||
_nat64handoff__subcmd__help__subcmd__gateway_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff help gateway commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__help__subcmd__help_commands] )) ||
_nat64handoff__subcmd__help__subcmd__help_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff help help commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__help__subcmd__history_commands] )) ||
_nat64handoff__subcmd__help__subcmd__history_commands() {
    local commands; commands=(
'build:Add all that the event log has by now; the server does so by itself, a day at a time' \
'check:Read all of it, and say what is wrong; changes nothing' \
'copy:Copy it, and the lines of the event log behind it, to where those of a fleet'\''s hosts are' \
    )
    _describe -t commands 'nat64handoff help history commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__help__subcmd__history__subcmd__build_commands] )) ||
_nat64handoff__subcmd__help__subcmd__history__subcmd__build_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff help history build commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__help__subcmd__history__subcmd__check_commands] )) ||
_nat64handoff__subcmd__help__subcmd__history__subcmd__check_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff help history check commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__help__subcmd__history__subcmd__copy_commands] )) ||
_nat64handoff__subcmd__help__subcmd__history__subcmd__copy_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff help history copy commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__help__subcmd__identities_commands] )) ||
_nat64handoff__subcmd__help__subcmd__identities_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff help identities commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__help__subcmd__journal_commands] )) ||
_nat64handoff__subcmd__help__subcmd__journal_commands() {
    local commands; commands=(
'check:Say what is damaged, and what a repair would lose; changes nothing' \
'repair:Keep all that is not damaged; the damaged files are put aside' \
    )
    _describe -t commands 'nat64handoff help journal commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__help__subcmd__journal__subcmd__check_commands] )) ||
_nat64handoff__subcmd__help__subcmd__journal__subcmd__check_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff help journal check commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__help__subcmd__journal__subcmd__repair_commands] )) ||
_nat64handoff__subcmd__help__subcmd__journal__subcmd__repair_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff help journal repair commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__help__subcmd__man_commands] )) ||
_nat64handoff__subcmd__help__subcmd__man_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff help man commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__help__subcmd__peer-names_commands] )) ||
_nat64handoff__subcmd__help__subcmd__peer-names_commands() {
    local commands; commands=(
'attach:Load the programs into the kernel, for servers with \`--peer-names\`; as root' \
'detach:Remove the programs and all names; as root' \
'status:Say what is attached, and how many names there are' \
    )
    _describe -t commands 'nat64handoff help peer-names commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__help__subcmd__peer-names__subcmd__attach_commands] )) ||
_nat64handoff__subcmd__help__subcmd__peer-names__subcmd__attach_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff help peer-names attach commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__help__subcmd__peer-names__subcmd__detach_commands] )) ||
_nat64handoff__subcmd__help__subcmd__peer-names__subcmd__detach_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff help peer-names detach commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__help__subcmd__peer-names__subcmd__status_commands] )) ||
_nat64handoff__subcmd__help__subcmd__peer-names__subcmd__status_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff help peer-names status commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__help__subcmd__self-check_commands] )) ||
_nat64handoff__subcmd__help__subcmd__self-check_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff help self-check commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__help__subcmd__serve_commands] )) ||
_nat64handoff__subcmd__help__subcmd__serve_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff help serve commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__help__subcmd__status_commands] )) ||
_nat64handoff__subcmd__help__subcmd__status_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff help status commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__help__subcmd__table_commands] )) ||
_nat64handoff__subcmd__help__subcmd__table_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff help table commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__help__subcmd__top_commands] )) ||
_nat64handoff__subcmd__help__subcmd__top_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff help top commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__help__subcmd__unban_commands] )) ||
_nat64handoff__subcmd__help__subcmd__unban_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff help unban commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__help__subcmd__who_commands] )) ||
_nat64handoff__subcmd__help__subcmd__who_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff help who commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__history_commands] )) ||
_nat64handoff__subcmd__history_commands() {
    local commands; commands=(
'build:Add all that the event log has by now; the server does so by itself, a day at a time' \
'check:Read all of it, and say what is wrong; changes nothing' \
'copy:Copy it, and the lines of the event log behind it, to where those of a fleet'\''s hosts are' \
'help:Print this message or the help of the given subcommand(s)' \
    )
    _describe -t commands 'nat64handoff history commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__history__subcmd__build_commands] )) ||
_nat64handoff__subcmd__history__subcmd__build_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff history build commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__history__subcmd__check_commands] )) ||
_nat64handoff__subcmd__history__subcmd__check_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff history check commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__history__subcmd__copy_commands] )) ||
_nat64handoff__subcmd__history__subcmd__copy_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff history copy commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__history__subcmd__help_commands] )) ||
_nat64handoff__subcmd__history__subcmd__help_commands() {
    local commands; commands=(
'build:Add all that the event log has by now; the server does so by itself, a day at a time' \
'check:Read all of it, and say what is wrong; changes nothing' \
'copy:Copy it, and the lines of the event log behind it, to where those of a fleet'\''s hosts are' \
'help:Print this message or the help of the given subcommand(s)' \
    )
    _describe -t commands 'nat64handoff history help commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__history__subcmd__help__subcmd__build_commands] )) ||
_nat64handoff__subcmd__history__subcmd__help__subcmd__build_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff history help build commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__history__subcmd__help__subcmd__check_commands] )) ||
_nat64handoff__subcmd__history__subcmd__help__subcmd__check_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff history help check commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__history__subcmd__help__subcmd__copy_commands] )) ||
_nat64handoff__subcmd__history__subcmd__help__subcmd__copy_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff history help copy commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__history__subcmd__help__subcmd__help_commands] )) ||
_nat64handoff__subcmd__history__subcmd__help__subcmd__help_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff history help help commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__identities_commands] )) ||
_nat64handoff__subcmd__identities_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff identities commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__journal_commands] )) ||
_nat64handoff__subcmd__journal_commands() {
    local commands; commands=(
'check:Say what is damaged, and what a repair would lose; changes nothing' \
'repair:Keep all that is not damaged; the damaged files are put aside' \
'help:Print this message or the help of the given subcommand(s)' \
    )
    _describe -t commands 'nat64handoff journal commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__journal__subcmd__check_commands] )) ||
_nat64handoff__subcmd__journal__subcmd__check_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff journal check commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__journal__subcmd__help_commands] )) ||
_nat64handoff__subcmd__journal__subcmd__help_commands() {
    local commands; commands=(
'check:Say what is damaged, and what a repair would lose; changes nothing' \
'repair:Keep all that is not damaged; the damaged files are put aside' \
'help:Print this message or the help of the given subcommand(s)' \
    )
    _describe -t commands 'nat64handoff journal help commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__journal__subcmd__help__subcmd__check_commands] )) ||
_nat64handoff__subcmd__journal__subcmd__help__subcmd__check_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff journal help check commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__journal__subcmd__help__subcmd__help_commands] )) ||
_nat64handoff__subcmd__journal__subcmd__help__subcmd__help_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff journal help help commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__journal__subcmd__help__subcmd__repair_commands] )) ||
_nat64handoff__subcmd__journal__subcmd__help__subcmd__repair_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff journal help repair commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__journal__subcmd__repair_commands] )) ||
_nat64handoff__subcmd__journal__subcmd__repair_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff journal repair commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__man_commands] )) ||
_nat64handoff__subcmd__man_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff man commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__peer-names_commands] )) ||
_nat64handoff__subcmd__peer-names_commands() {
    local commands; commands=(
'attach:Load the programs into the kernel, for servers with \`--peer-names\`; as root' \
'detach:Remove the programs and all names; as root' \
'status:Say what is attached, and how many names there are' \
'help:Print this message or the help of the given subcommand(s)' \
    )
    _describe -t commands 'nat64handoff peer-names commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__peer-names__subcmd__attach_commands] )) ||
_nat64handoff__subcmd__peer-names__subcmd__attach_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff peer-names attach commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__peer-names__subcmd__detach_commands] )) ||
_nat64handoff__subcmd__peer-names__subcmd__detach_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff peer-names detach commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__peer-names__subcmd__help_commands] )) ||
_nat64handoff__subcmd__peer-names__subcmd__help_commands() {
    local commands; commands=(
'attach:Load the programs into the kernel, for servers with \`--peer-names\`; as root' \
'detach:Remove the programs and all names; as root' \
'status:Say what is attached, and how many names there are' \
'help:Print this message or the help of the given subcommand(s)' \
    )
    _describe -t commands 'nat64handoff peer-names help commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__peer-names__subcmd__help__subcmd__attach_commands] )) ||
_nat64handoff__subcmd__peer-names__subcmd__help__subcmd__attach_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff peer-names help attach commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__peer-names__subcmd__help__subcmd__detach_commands] )) ||
_nat64handoff__subcmd__peer-names__subcmd__help__subcmd__detach_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff peer-names help detach commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__peer-names__subcmd__help__subcmd__help_commands] )) ||
_nat64handoff__subcmd__peer-names__subcmd__help__subcmd__help_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff peer-names help help commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__peer-names__subcmd__help__subcmd__status_commands] )) ||
_nat64handoff__subcmd__peer-names__subcmd__help__subcmd__status_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff peer-names help status commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__peer-names__subcmd__status_commands] )) ||
_nat64handoff__subcmd__peer-names__subcmd__status_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff peer-names status commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__self-check_commands] )) ||
_nat64handoff__subcmd__self-check_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff self-check commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__serve_commands] )) ||
_nat64handoff__subcmd__serve_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff serve commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__status_commands] )) ||
_nat64handoff__subcmd__status_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff status commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__table_commands] )) ||
_nat64handoff__subcmd__table_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff table commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__top_commands] )) ||
_nat64handoff__subcmd__top_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff top commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__unban_commands] )) ||
_nat64handoff__subcmd__unban_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff unban commands' commands "$@"
}
(( $+functions[_nat64handoff__subcmd__who_commands] )) ||
_nat64handoff__subcmd__who_commands() {
    local commands; commands=()
    _describe -t commands 'nat64handoff who commands' commands "$@"
}

if [ "$funcstack[1]" = "_nat64handoff" ]; then
    _nat64handoff "$@"
else
    compdef _nat64handoff nat64handoff
fi
