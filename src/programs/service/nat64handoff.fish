# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_nat64handoff_global_optspecs
    string join \n h/help V/version
end

function __fish_nat64handoff_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_nat64handoff_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_nat64handoff_using_subcommand
    set -l cmd (__fish_nat64handoff_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c nat64handoff -n "__fish_nat64handoff_needs_command" -s h -l help -d 'Print help'
complete -c nat64handoff -n "__fish_nat64handoff_needs_command" -s V -l version -d 'Print version'
complete -c nat64handoff -n "__fish_nat64handoff_needs_command" -f -a "serve" -d 'Run the server'
complete -c nat64handoff -n "__fish_nat64handoff_needs_command" -f -a "demo" -d 'Run a server and a NAT64 in one process, on loopback, to see what it looks like'
complete -c nat64handoff -n "__fish_nat64handoff_needs_command" -f -a "gateway" -d 'Run a NAT64 that hands its connections over, on a TUN device'
complete -c nat64handoff -n "__fish_nat64handoff_needs_command" -f -a "journal" -d 'Look into the journal of a server that is not running'
complete -c nat64handoff -n "__fish_nat64handoff_needs_command" -f -a "check-config" -d 'Print the configuration that `serve` would use, and where each value comes from'
complete -c nat64handoff -n "__fish_nat64handoff_needs_command" -f -a "self-check" -d 'Ask the server that runs with these options as a NAT64 would, from loopback'
complete -c nat64handoff -n "__fish_nat64handoff_needs_command" -f -a "who" -d 'Say who was behind a NAT64\'s address and port, or where a client was'
complete -c nat64handoff -n "__fish_nat64handoff_needs_command" -f -a "follow" -d 'Print the events as they come, from any point in the past on, or send them to a collector'
complete -c nat64handoff -n "__fish_nat64handoff_needs_command" -f -a "annotate" -d 'Copy an access log, with the client in the place of each NAT64'
complete -c nat64handoff -n "__fish_nat64handoff_needs_command" -f -a "status" -d 'Say how the server is doing, and what it holds'
complete -c nat64handoff -n "__fish_nat64handoff_needs_command" -f -a "top" -d 'Show the same on the terminal, as it changes'
complete -c nat64handoff -n "__fish_nat64handoff_needs_command" -f -a "table" -d 'Print the entries of a NAT64\'s table, as the server has them'
complete -c nat64handoff -n "__fish_nat64handoff_needs_command" -f -a "identities" -d 'Print the control identities of all NAT64s, as the server knows them'
complete -c nat64handoff -n "__fish_nat64handoff_needs_command" -f -a "drop-table" -d 'Have the server forget a NAT64: a `Deleted` for each entry stands in the event log'
complete -c nat64handoff -n "__fish_nat64handoff_needs_command" -f -a "ban" -d 'Give a client no connection any more, and its NAT64\'s other clients theirs'
complete -c nat64handoff -n "__fish_nat64handoff_needs_command" -f -a "unban" -d 'Give a client connections again'
complete -c nat64handoff -n "__fish_nat64handoff_needs_command" -f -a "bans" -d 'Print who is banned, and until when'
complete -c nat64handoff -n "__fish_nat64handoff_needs_command" -f -a "fleet" -d 'Have the server share its tables in another way with the other hosts of its fleet'
complete -c nat64handoff -n "__fish_nat64handoff_needs_command" -f -a "ban-set" -d 'Keep the ports of banned clients in a set of nftables, and end connections for `ban --kill`'
complete -c nat64handoff -n "__fish_nat64handoff_needs_command" -f -a "history" -d 'Make the history of an event log, by which `who` asks it, check it, or copy it'
complete -c nat64handoff -n "__fish_nat64handoff_needs_command" -f -a "peer-names" -d 'Have programs on this host see the clients of NAT64s as their peers'
complete -c nat64handoff -n "__fish_nat64handoff_needs_command" -f -a "deliver-device" -d 'Make or remove the TUN device through which a server delivers'
complete -c nat64handoff -n "__fish_nat64handoff_needs_command" -f -a "completions" -d 'Print completions of this command line for a shell'
complete -c nat64handoff -n "__fish_nat64handoff_needs_command" -f -a "man" -d 'Print a page of the manual'
complete -c nat64handoff -n "__fish_nat64handoff_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -l listen -d 'IPv4 address and port to take requests at; may be repeated, with the same port [default: 0.0.0.0:64064]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -l port -d 'The port of each --listen that names none [default: 64064]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -l allow -d 'Serve only NAT64s in this network; may be repeated [default: all]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -l deny -d 'Do not serve NAT64s in this network, even if allowed; may be repeated [default: none]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -l reactors -d 'Number of threads that handle requests, 1 to 256 [default: one per available CPU]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -l io -d 'How datagrams are received and sent: by io_uring, by recvmmsg and sendmmsg, or auto: by io_uring where it is allowed [default: auto]' -r -f -a "auto\t''
uring\t''
mmsg\t''"
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -l state -d 'Directory for the state; made if it does not exist [default: $STATE_DIRECTORY or ./state]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -l log -d 'File to append the event log to, - for standard output [default: $LOGS_DIRECTORY/events.log or -]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -l log-format -d 'full: name the local address and the NAT64 prefix in each line, too; json: all of that as JSON lines [default: plain]' -r -f -a "plain\t''
full\t''
json\t''"
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -l history -d 'Folder for the history, by which the log is asked; off: none is built [default: history beside the log\'s file]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -l log-keep -d 'Days for which files of former days of the log and its history are kept; 0: for ever [default: 180]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -l sync -d 'When the journal is made durable: whenever the kernel likes, before each answer that depends on it, or so often [default: interval:100ms]' -r -f -a "none\t''
always\t''"
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -l max-nat64s -d 'NAT64s to serve at most; then the least worthy makes room [default: 1000]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -l max-entries -d 'Entries to hold at most, for all NAT64s together [default: what fits in a quarter of the memory that it may have]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -l client-share -d 'Share of a NAT64\'s ports that one client network (/64) may have, 1/1024 to 1 [default: 0.125]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -l validation-rate -d 'Validation packets to send at most in a second [default: 10000]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -l create-rate -d 'Entries to create for one NAT64 at most in a second, after two whole tables at once [default: 2000]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -l peer-names -d 'Programs on this host see the clients of NAT64s as their peers, once peer-names attach was run: ipv6: those that listen at `[::]`; ipv4: those that listen at 0.0.0.0, by addresses of --peer-pool [default: off]' -r -f -a "off\t''
both\t''"
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -l peer-maps -d 'Where peer-names attach has the maps of these names [default: /sys/fs/bpf/nat64handoff]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -l peer-pool -d 'Network of the IPv4 addresses that stand for clients (--peer-names ipv4, --deliver translate): none that is in use [default: 100.64.0.0/12]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -l peer-pool-for -d 'For whom such an address stands: for all clients of a /64, or for each client address, as always with --deliver translate [default: prefix64]' -r -f -a "address\t''"
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -l peer-pool-idle -d 'How long such an address is kept for clients that have no entry (with --deliver translate, 2 h 4 min or more); each start begins anew [default: 1h]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -l deliver -d 'How packets of clients reach programs on this host: cache: their NAT64 translates them; native: this server delivers them as they are, through --deliver-device; translate: it delivers them as IPv4, from an address of --peer-pool for each client; auto: native where a socket of IPv6 takes the port\'s packets, else cache [default: cache]' -r -f -a "cache\t''
native\t''
translate\t''
auto\t''"
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -l deliver-port -d 'The same for packets to this port alone, like 80=native; may be repeated [default: none]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -l deliver-device -d 'The TUN device through which packets are delivered [default: ho0]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -l deliver-service -d 'IPv6 address by which clients reach this host, behind a NAT64\'s prefix, like 64:ff9b::203.0.113.5; may be repeated [default: those that the device has]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -l geneve -d 'Take offers of NAT64s to send clients\' packets through a Geneve tunnel, at UDP port 6081; what comes so is delivered natively, or translated where its port is: needs --deliver native [default: off]' -r -f -a "on\t''
off\t''"
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -l fleet -d 'Share the tables with the other hosts that have the same addresses, on etcd: http://HOST:PORT of each of its nodes; may be repeated [default: none]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -l fleet-cell -d 'Name of the cell: those hosts [default: main]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -l fleet-host -d 'Number of this host, which no other of the cell has [default: off]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -l fleet-address -d 'Address of this host alone, and a UDP port, to which the others pass requests on [default: off]' -r -f -a "off\t''"
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -l fleet-fold -d 'Octets of records in etcd at which they are folded into snapshots [default: 64M]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -l fleet-withdraw -d 'How long a host that stops goes on after /readyz has failed, so that its route is withdrawn [default: 2s]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -l fleet-authority -d 'File with the certificate that those of etcd are signed with, for https [default: off]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -l fleet-certificate -d 'File with this host\'s certificate for etcd [default: off]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -l fleet-key -d 'File with its key [default: off]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -l admin -d 'Unix socket at which `status` and the like ask the server, over HTTP; off: none [default: $RUNTIME_DIRECTORY/admin.sock, or admin.sock in the state directory]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -l web -d 'Address and port at which the same is served over TCP, or off [default: off]' -r -f -a "off\t''"
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -l web-token-file -d 'File with the token that --web asks for, of at least 16 characters; needed for other addresses than loopback [default: off]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -l config -d 'TOML file with options' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -l no-journal -d 'Keep no journal: nothing survives. For measurements'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand serve" -s h -l help -d 'Print help'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand demo" -l port -d 'The server\'s port [default: any that is free]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand demo" -s h -l help -d 'Print help'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand gateway" -l pool -d 'A public IPv4 address; it must be routed to this host, and not be an address of this host; may be repeated: each client keeps one of them' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand gateway" -l prefix -d 'A prefix of 96 bits that clients reach it by; may be repeated [default: 64:ff9b::/96]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand gateway" -l tun -d 'Name of the TUN device [default: nat64]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand gateway" -l mtu -d 'MTU of the TUN device, 1280 to 65535 octets [default: 1500]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand gateway" -l lowest-ipv6-mtu -d 'The lowest MTU of any link in the IPv6 network, 1280 octets up to --mtu: IPv4 packets that may be fragmented are, so that they are no longer as IPv6 [default: 1280]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand gateway" -l queues -d 'Queues of the TUN device, 1 to 64, each with a thread: the kernel deals flows out to them [default: 1]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand gateway" -l handoff-port -d 'The UDP port of handoff servers [default: 64064]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand gateway" -l client-share -d 'Share that one client network (/64) may have of the ports towards each server, and of all entries, where the gateway makes them without a server, 1/1024 to 1 [default: 0.125]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand gateway" -l rotate -d 'How often the key of the tokens is replaced, 2m to 365d [default: 1h]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand gateway" -l secret -d 'File with the key of the authenticators; made if it does not exist. With it, a service that speaks first after a restart reaches its client at once [default: another key at each start]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand gateway" -l geneve -d 'Offer servers a Geneve tunnel by which they get clients\' packets as they are; wants --secret [default: off]' -r -f -a "on\t''
off\t''"
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand gateway" -l state -d 'File with the entries that the gateway made without a server; made if it does not exist. With it, connections to hosts without a server go on after a restart [default: none]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand gateway" -l log -d 'File to append a line to for each entry that is made or gone, in the form of the server\'s log, - for standard output [default: none]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand gateway" -l metrics -d 'Address and port at which its counters can be read over HTTP, or off [default: off]' -r -f -a "off\t''"
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand gateway" -l zero-traffic-class -d 'Traffic class and type of service become 0, and not one the other'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand gateway" -l drop-unsummed-udp -d 'UDP datagrams that come without a checksum, as they may in IPv4, are dropped; else they get one'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand gateway" -s h -l help -d 'Print help'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand journal; and not __fish_seen_subcommand_from check repair help" -s h -l help -d 'Print help'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand journal; and not __fish_seen_subcommand_from check repair help" -f -a "check" -d 'Say what is damaged, and what a repair would lose; changes nothing'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand journal; and not __fish_seen_subcommand_from check repair help" -f -a "repair" -d 'Keep all that is not damaged; the damaged files are put aside'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand journal; and not __fish_seen_subcommand_from check repair help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand journal; and __fish_seen_subcommand_from check" -s h -l help -d 'Print help'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand journal; and __fish_seen_subcommand_from repair" -s h -l help -d 'Print help'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand journal; and __fish_seen_subcommand_from help" -f -a "check" -d 'Say what is damaged, and what a repair would lose; changes nothing'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand journal; and __fish_seen_subcommand_from help" -f -a "repair" -d 'Keep all that is not damaged; the damaged files are put aside'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand journal; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l listen -d 'IPv4 address and port to take requests at; may be repeated, with the same port [default: 0.0.0.0:64064]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l port -d 'The port of each --listen that names none [default: 64064]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l allow -d 'Serve only NAT64s in this network; may be repeated [default: all]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l deny -d 'Do not serve NAT64s in this network, even if allowed; may be repeated [default: none]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l reactors -d 'Number of threads that handle requests, 1 to 256 [default: one per available CPU]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l io -d 'How datagrams are received and sent: by io_uring, by recvmmsg and sendmmsg, or auto: by io_uring where it is allowed [default: auto]' -r -f -a "auto\t''
uring\t''
mmsg\t''"
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l state -d 'Directory for the state; made if it does not exist [default: $STATE_DIRECTORY or ./state]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l log -d 'File to append the event log to, - for standard output [default: $LOGS_DIRECTORY/events.log or -]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l log-format -d 'full: name the local address and the NAT64 prefix in each line, too; json: all of that as JSON lines [default: plain]' -r -f -a "plain\t''
full\t''
json\t''"
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l history -d 'Folder for the history, by which the log is asked; off: none is built [default: history beside the log\'s file]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l log-keep -d 'Days for which files of former days of the log and its history are kept; 0: for ever [default: 180]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l sync -d 'When the journal is made durable: whenever the kernel likes, before each answer that depends on it, or so often [default: interval:100ms]' -r -f -a "none\t''
always\t''"
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l max-nat64s -d 'NAT64s to serve at most; then the least worthy makes room [default: 1000]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l max-entries -d 'Entries to hold at most, for all NAT64s together [default: what fits in a quarter of the memory that it may have]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l client-share -d 'Share of a NAT64\'s ports that one client network (/64) may have, 1/1024 to 1 [default: 0.125]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l validation-rate -d 'Validation packets to send at most in a second [default: 10000]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l create-rate -d 'Entries to create for one NAT64 at most in a second, after two whole tables at once [default: 2000]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l peer-names -d 'Programs on this host see the clients of NAT64s as their peers, once peer-names attach was run: ipv6: those that listen at `[::]`; ipv4: those that listen at 0.0.0.0, by addresses of --peer-pool [default: off]' -r -f -a "off\t''
both\t''"
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l peer-maps -d 'Where peer-names attach has the maps of these names [default: /sys/fs/bpf/nat64handoff]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l peer-pool -d 'Network of the IPv4 addresses that stand for clients (--peer-names ipv4, --deliver translate): none that is in use [default: 100.64.0.0/12]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l peer-pool-for -d 'For whom such an address stands: for all clients of a /64, or for each client address, as always with --deliver translate [default: prefix64]' -r -f -a "address\t''"
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l peer-pool-idle -d 'How long such an address is kept for clients that have no entry (with --deliver translate, 2 h 4 min or more); each start begins anew [default: 1h]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l deliver -d 'How packets of clients reach programs on this host: cache: their NAT64 translates them; native: this server delivers them as they are, through --deliver-device; translate: it delivers them as IPv4, from an address of --peer-pool for each client; auto: native where a socket of IPv6 takes the port\'s packets, else cache [default: cache]' -r -f -a "cache\t''
native\t''
translate\t''
auto\t''"
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l deliver-port -d 'The same for packets to this port alone, like 80=native; may be repeated [default: none]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l deliver-device -d 'The TUN device through which packets are delivered [default: ho0]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l deliver-service -d 'IPv6 address by which clients reach this host, behind a NAT64\'s prefix, like 64:ff9b::203.0.113.5; may be repeated [default: those that the device has]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l geneve -d 'Take offers of NAT64s to send clients\' packets through a Geneve tunnel, at UDP port 6081; what comes so is delivered natively, or translated where its port is: needs --deliver native [default: off]' -r -f -a "on\t''
off\t''"
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l fleet -d 'Share the tables with the other hosts that have the same addresses, on etcd: http://HOST:PORT of each of its nodes; may be repeated [default: none]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l fleet-cell -d 'Name of the cell: those hosts [default: main]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l fleet-host -d 'Number of this host, which no other of the cell has [default: off]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l fleet-address -d 'Address of this host alone, and a UDP port, to which the others pass requests on [default: off]' -r -f -a "off\t''"
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l fleet-fold -d 'Octets of records in etcd at which they are folded into snapshots [default: 64M]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l fleet-withdraw -d 'How long a host that stops goes on after /readyz has failed, so that its route is withdrawn [default: 2s]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l fleet-authority -d 'File with the certificate that those of etcd are signed with, for https [default: off]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l fleet-certificate -d 'File with this host\'s certificate for etcd [default: off]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l fleet-key -d 'File with its key [default: off]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l admin -d 'Unix socket at which `status` and the like ask the server, over HTTP; off: none [default: $RUNTIME_DIRECTORY/admin.sock, or admin.sock in the state directory]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l web -d 'Address and port at which the same is served over TCP, or off [default: off]' -r -f -a "off\t''"
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l web-token-file -d 'File with the token that --web asks for, of at least 16 characters; needed for other addresses than loopback [default: off]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l config -d 'TOML file with options' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l no-journal -d 'Keep no journal: nothing survives. For measurements'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l host -d 'Print what --deliver needs of this host, as commands, and which of them were done'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -l networkd -d 'With --host: print it as commands that write files of systemd-networkd'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand check-config" -s h -l help -d 'Print help'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l listen -d 'IPv4 address and port to take requests at; may be repeated, with the same port [default: 0.0.0.0:64064]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l port -d 'The port of each --listen that names none [default: 64064]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l allow -d 'Serve only NAT64s in this network; may be repeated [default: all]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l deny -d 'Do not serve NAT64s in this network, even if allowed; may be repeated [default: none]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l reactors -d 'Number of threads that handle requests, 1 to 256 [default: one per available CPU]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l io -d 'How datagrams are received and sent: by io_uring, by recvmmsg and sendmmsg, or auto: by io_uring where it is allowed [default: auto]' -r -f -a "auto\t''
uring\t''
mmsg\t''"
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l state -d 'Directory for the state; made if it does not exist [default: $STATE_DIRECTORY or ./state]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l log -d 'File to append the event log to, - for standard output [default: $LOGS_DIRECTORY/events.log or -]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l log-format -d 'full: name the local address and the NAT64 prefix in each line, too; json: all of that as JSON lines [default: plain]' -r -f -a "plain\t''
full\t''
json\t''"
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l history -d 'Folder for the history, by which the log is asked; off: none is built [default: history beside the log\'s file]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l log-keep -d 'Days for which files of former days of the log and its history are kept; 0: for ever [default: 180]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l sync -d 'When the journal is made durable: whenever the kernel likes, before each answer that depends on it, or so often [default: interval:100ms]' -r -f -a "none\t''
always\t''"
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l max-nat64s -d 'NAT64s to serve at most; then the least worthy makes room [default: 1000]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l max-entries -d 'Entries to hold at most, for all NAT64s together [default: what fits in a quarter of the memory that it may have]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l client-share -d 'Share of a NAT64\'s ports that one client network (/64) may have, 1/1024 to 1 [default: 0.125]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l validation-rate -d 'Validation packets to send at most in a second [default: 10000]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l create-rate -d 'Entries to create for one NAT64 at most in a second, after two whole tables at once [default: 2000]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l peer-names -d 'Programs on this host see the clients of NAT64s as their peers, once peer-names attach was run: ipv6: those that listen at `[::]`; ipv4: those that listen at 0.0.0.0, by addresses of --peer-pool [default: off]' -r -f -a "off\t''
both\t''"
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l peer-maps -d 'Where peer-names attach has the maps of these names [default: /sys/fs/bpf/nat64handoff]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l peer-pool -d 'Network of the IPv4 addresses that stand for clients (--peer-names ipv4, --deliver translate): none that is in use [default: 100.64.0.0/12]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l peer-pool-for -d 'For whom such an address stands: for all clients of a /64, or for each client address, as always with --deliver translate [default: prefix64]' -r -f -a "address\t''"
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l peer-pool-idle -d 'How long such an address is kept for clients that have no entry (with --deliver translate, 2 h 4 min or more); each start begins anew [default: 1h]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l deliver -d 'How packets of clients reach programs on this host: cache: their NAT64 translates them; native: this server delivers them as they are, through --deliver-device; translate: it delivers them as IPv4, from an address of --peer-pool for each client; auto: native where a socket of IPv6 takes the port\'s packets, else cache [default: cache]' -r -f -a "cache\t''
native\t''
translate\t''
auto\t''"
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l deliver-port -d 'The same for packets to this port alone, like 80=native; may be repeated [default: none]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l deliver-device -d 'The TUN device through which packets are delivered [default: ho0]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l deliver-service -d 'IPv6 address by which clients reach this host, behind a NAT64\'s prefix, like 64:ff9b::203.0.113.5; may be repeated [default: those that the device has]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l geneve -d 'Take offers of NAT64s to send clients\' packets through a Geneve tunnel, at UDP port 6081; what comes so is delivered natively, or translated where its port is: needs --deliver native [default: off]' -r -f -a "on\t''
off\t''"
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l fleet -d 'Share the tables with the other hosts that have the same addresses, on etcd: http://HOST:PORT of each of its nodes; may be repeated [default: none]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l fleet-cell -d 'Name of the cell: those hosts [default: main]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l fleet-host -d 'Number of this host, which no other of the cell has [default: off]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l fleet-address -d 'Address of this host alone, and a UDP port, to which the others pass requests on [default: off]' -r -f -a "off\t''"
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l fleet-fold -d 'Octets of records in etcd at which they are folded into snapshots [default: 64M]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l fleet-withdraw -d 'How long a host that stops goes on after /readyz has failed, so that its route is withdrawn [default: 2s]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l fleet-authority -d 'File with the certificate that those of etcd are signed with, for https [default: off]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l fleet-certificate -d 'File with this host\'s certificate for etcd [default: off]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l fleet-key -d 'File with its key [default: off]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l admin -d 'Unix socket at which `status` and the like ask the server, over HTTP; off: none [default: $RUNTIME_DIRECTORY/admin.sock, or admin.sock in the state directory]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l web -d 'Address and port at which the same is served over TCP, or off [default: off]' -r -f -a "off\t''"
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l web-token-file -d 'File with the token that --web asks for, of at least 16 characters; needed for other addresses than loopback [default: off]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l config -d 'TOML file with options' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l no-journal -d 'Keep no journal: nothing survives. For measurements'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -l start -d 'Check a server that is started for that, on loopback, with this state directory and log'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand self-check" -s h -l help -d 'Print help'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand who" -l at -d 'When, in UTC unless a zone is written; to the minute or second: all of that; two with .. between: from, to [default: now; of a client: ever]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand who" -l to -d 'Only connections to this address of the server' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand who" -l log -d 'The event log; - for standard input [default: that of `serve`]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand who" -l history -d 'The history\'s folder; off: read the event log alone [default: beside the log]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand who" -l config -d 'The file of options that `serve` has' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand who" -l fleet -d 'A folder with one for each host of a fleet, with its events.log, the files of former days and history, or with what history copy put there: all are asked together; a bucket is s3://BUCKET/PREFIX' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand who" -l json -d 'Print JSON: one object'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand who" -s h -l help -d 'Print help'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand follow" -l from -d 'Where to begin: start, now, or a time as `who --at` takes it. What --cursor has goes first' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand follow" -l after -d 'Begin behind this line: its "cursor", as --json told it' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand follow" -l cursor -d 'Keep in this file how far it came, and go on from there' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand follow" -l to -d 'Send the events there instead: journald, syslog+unix:PATH, syslog+udp://HOST:PORT, syslog+tcp://HOST:PORT, ipfix+udp://HOST:PORT or ipfix+tcp://HOST:PORT' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand follow" -l log -d 'The event log [default: that of `serve`]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand follow" -l config -d 'The file of options that `serve` has' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand follow" -l json -d 'Print JSON: an object for each event, with its cursor'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand follow" -l no-wait -d 'End where the log ends, instead of waiting for more'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand follow" -s h -l help -d 'Print help'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand annotate" -l pattern -d 'The shape of the lines: a regular expression with groups (?<ip>...), (?<port>...) and, if there is one, (?<time>...)' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand annotate" -l to -d 'The address of the server that this access log is about, where it has several' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand annotate" -l log -d 'The event log [default: that of `serve`]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand annotate" -l history -d 'The history\'s folder; off: read the event log alone [default: beside the log]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand annotate" -l config -d 'The file of options that `serve` has' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand annotate" -l append -d 'Leave each line as it is, and put the client behind it'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand annotate" -l now -d 'Take lines without a time as being of now, as they are written'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand annotate" -l newcomer -d 'Where a port came to another client within the second that a line tells, name that one; else the line stays as it is'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand annotate" -s h -l help -d 'Print help'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand status" -l tables -d 'How many tables it shows, the fullest first [default: 20; of JSON: 1000]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand status" -l admin -d 'The admin socket [default: that of `serve`]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand status" -l config -d 'The file of options that `serve` has' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand status" -l json -d 'Print JSON: one object'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand status" -s h -l help -d 'Print help'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand top" -l admin -d 'The admin socket [default: that of `serve`]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand top" -l config -d 'The file of options that `serve` has' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand top" -s h -l help -d 'Print help'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand table" -l client -d 'Only the entries of this client, or of those in this network' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand table" -l admin -d 'The admin socket [default: that of `serve`]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand table" -l config -d 'The file of options that `serve` has' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand table" -l json -d 'Print JSON: one object'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand table" -s h -l help -d 'Print help'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand identities" -l admin -d 'The admin socket [default: that of `serve`]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand identities" -l config -d 'The file of options that `serve` has' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand identities" -l json -d 'Print JSON: one object'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand identities" -s h -l help -d 'Print help'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand drop-table" -l admin -d 'The admin socket [default: that of `serve`]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand drop-table" -l config -d 'The file of options that `serve` has' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand drop-table" -l yes -d 'Do not ask whether that is meant'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand drop-table" -l json -d 'Print JSON: one object'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand drop-table" -s h -l help -d 'Print help'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand ban" -l for -d 'How long, as 10m or 2h [default: until unban]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand ban" -l admin -d 'The admin socket [default: that of `serve`]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand ban" -l config -d 'The file of options that `serve` has' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand ban" -l kill -d 'End its TCP connections, too: where `ban-set` runs'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand ban" -l wide -d 'Ban also more clients than a /32 has'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand ban" -l json -d 'Print JSON: one object'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand ban" -s h -l help -d 'Print help'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand unban" -l admin -d 'The admin socket [default: that of `serve`]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand unban" -l config -d 'The file of options that `serve` has' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand unban" -l json -d 'Print JSON: one object'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand unban" -s h -l help -d 'Print help'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand bans" -l admin -d 'The admin socket [default: that of `serve`]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand bans" -l config -d 'The file of options that `serve` has' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand bans" -l json -d 'Print JSON: one object'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand bans" -s h -l help -d 'Print help'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand fleet; and not __fish_seen_subcommand_from drain help" -s h -l help -d 'Print help'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand fleet; and not __fish_seen_subcommand_from drain help" -f -a "drain" -d 'Have it give all its tables to other hosts, and get none until it is started again'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand fleet; and not __fish_seen_subcommand_from drain help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand fleet; and __fish_seen_subcommand_from drain" -l admin -d 'The admin socket [default: that of `serve`]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand fleet; and __fish_seen_subcommand_from drain" -l config -d 'The file of options that `serve` has' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand fleet; and __fish_seen_subcommand_from drain" -l json -d 'Print JSON: one object'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand fleet; and __fish_seen_subcommand_from drain" -s h -l help -d 'Print help'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand fleet; and __fish_seen_subcommand_from help" -f -a "drain" -d 'Have it give all its tables to other hosts, and get none until it is started again'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand fleet; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand ban-set" -l set -d 'The set of nftables: family (inet or ip), table and name' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand ban-set" -l admin -d 'The admin socket [default: that of `serve`]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand ban-set" -l config -d 'The file of options that `serve` has' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand ban-set" -s h -l help -d 'Print help'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand history; and not __fish_seen_subcommand_from build check copy help" -s h -l help -d 'Print help'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand history; and not __fish_seen_subcommand_from build check copy help" -f -a "build" -d 'Add all that the event log has by now; the server does so by itself, a day at a time'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand history; and not __fish_seen_subcommand_from build check copy help" -f -a "check" -d 'Read all of it, and say what is wrong; changes nothing'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand history; and not __fish_seen_subcommand_from build check copy help" -f -a "copy" -d 'Copy it, and the lines of the event log behind it, to where those of a fleet\'s hosts are'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand history; and not __fish_seen_subcommand_from build check copy help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand history; and __fish_seen_subcommand_from build" -l log -d 'The event log [default: that of `serve`]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand history; and __fish_seen_subcommand_from build" -l history -d 'The history\'s folder [default: beside the log]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand history; and __fish_seen_subcommand_from build" -l config -d 'The file of options that `serve` has' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand history; and __fish_seen_subcommand_from build" -s h -l help -d 'Print help'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand history; and __fish_seen_subcommand_from check" -l log -d 'The event log [default: that of `serve`]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand history; and __fish_seen_subcommand_from check" -l history -d 'The history\'s folder [default: beside the log]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand history; and __fish_seen_subcommand_from check" -l config -d 'The file of options that `serve` has' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand history; and __fish_seen_subcommand_from check" -s h -l help -d 'Print help'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand history; and __fish_seen_subcommand_from copy" -l to -d 'Where to: a directory, or a bucket as s3://BUCKET/PREFIX' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand history; and __fish_seen_subcommand_from copy" -l host -d 'The folder there that is this host\'s alone [default: the name of this machine]' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand history; and __fish_seen_subcommand_from copy" -l log -d 'The event log [default: that of `serve`]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand history; and __fish_seen_subcommand_from copy" -l history -d 'The history\'s folder [default: beside the log]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand history; and __fish_seen_subcommand_from copy" -l config -d 'The file of options that `serve` has' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand history; and __fish_seen_subcommand_from copy" -l delete -d 'Remove files there that the history here does not have any more'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand history; and __fish_seen_subcommand_from copy" -s h -l help -d 'Print help'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand history; and __fish_seen_subcommand_from help" -f -a "build" -d 'Add all that the event log has by now; the server does so by itself, a day at a time'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand history; and __fish_seen_subcommand_from help" -f -a "check" -d 'Read all of it, and say what is wrong; changes nothing'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand history; and __fish_seen_subcommand_from help" -f -a "copy" -d 'Copy it, and the lines of the event log behind it, to where those of a fleet\'s hosts are'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand history; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand peer-names; and not __fish_seen_subcommand_from attach detach status help" -s h -l help -d 'Print help'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand peer-names; and not __fish_seen_subcommand_from attach detach status help" -f -a "attach" -d 'Load the programs into the kernel, for servers with `--peer-names`; as root'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand peer-names; and not __fish_seen_subcommand_from attach detach status help" -f -a "detach" -d 'Remove the programs and all names; as root'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand peer-names; and not __fish_seen_subcommand_from attach detach status help" -f -a "status" -d 'Say what is attached, and how many names there are'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand peer-names; and not __fish_seen_subcommand_from attach detach status help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand peer-names; and __fish_seen_subcommand_from attach" -l cgroup -d 'Name peers only to the programs in this control group v2, as that of a slice; may be repeated [default: the root, so all programs]' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand peer-names; and __fish_seen_subcommand_from attach" -l peer-names -d 'At which sockets peers are named, as serve has it' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand peer-names; and __fish_seen_subcommand_from attach" -l names-max -d 'The most names: 97 octets of memory for each, at once' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand peer-names; and __fish_seen_subcommand_from attach" -l user -d 'The user that the server runs as' -r
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand peer-names; and __fish_seen_subcommand_from attach" -l maps -d 'The directory of the maps, in a bpffs' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand peer-names; and __fish_seen_subcommand_from attach" -s h -l help -d 'Print help'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand peer-names; and __fish_seen_subcommand_from detach" -l maps -d 'The directory of the maps, in a bpffs' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand peer-names; and __fish_seen_subcommand_from detach" -s h -l help -d 'Print help'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand peer-names; and __fish_seen_subcommand_from status" -l maps -d 'The directory of the maps, in a bpffs' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand peer-names; and __fish_seen_subcommand_from status" -l json -d 'Print JSON: one object'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand peer-names; and __fish_seen_subcommand_from status" -s h -l help -d 'Print help'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand peer-names; and __fish_seen_subcommand_from help" -f -a "attach" -d 'Load the programs into the kernel, for servers with `--peer-names`; as root'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand peer-names; and __fish_seen_subcommand_from help" -f -a "detach" -d 'Remove the programs and all names; as root'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand peer-names; and __fish_seen_subcommand_from help" -f -a "status" -d 'Say what is attached, and how many names there are'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand peer-names; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand deliver-device; and not __fish_seen_subcommand_from make remove help" -s h -l help -d 'Print help'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand deliver-device; and not __fish_seen_subcommand_from make remove help" -f -a "make" -d 'Make device, addresses, routes and rules, as far as they are not there; as root'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand deliver-device; and not __fish_seen_subcommand_from make remove help" -f -a "remove" -d 'Remove them; as root'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand deliver-device; and not __fish_seen_subcommand_from make remove help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand deliver-device; and __fish_seen_subcommand_from make" -l config -d 'The file of options that `serve` has' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand deliver-device; and __fish_seen_subcommand_from make" -s h -l help -d 'Print help'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand deliver-device; and __fish_seen_subcommand_from remove" -l config -d 'The file of options that `serve` has' -r -F
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand deliver-device; and __fish_seen_subcommand_from remove" -s h -l help -d 'Print help'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand deliver-device; and __fish_seen_subcommand_from help" -f -a "make" -d 'Make device, addresses, routes and rules, as far as they are not there; as root'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand deliver-device; and __fish_seen_subcommand_from help" -f -a "remove" -d 'Remove them; as root'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand deliver-device; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand completions" -s h -l help -d 'Print help'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand man" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand help; and not __fish_seen_subcommand_from serve demo gateway journal check-config self-check who follow annotate status top table identities drop-table ban unban bans fleet ban-set history peer-names deliver-device completions man help" -f -a "serve" -d 'Run the server'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand help; and not __fish_seen_subcommand_from serve demo gateway journal check-config self-check who follow annotate status top table identities drop-table ban unban bans fleet ban-set history peer-names deliver-device completions man help" -f -a "demo" -d 'Run a server and a NAT64 in one process, on loopback, to see what it looks like'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand help; and not __fish_seen_subcommand_from serve demo gateway journal check-config self-check who follow annotate status top table identities drop-table ban unban bans fleet ban-set history peer-names deliver-device completions man help" -f -a "gateway" -d 'Run a NAT64 that hands its connections over, on a TUN device'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand help; and not __fish_seen_subcommand_from serve demo gateway journal check-config self-check who follow annotate status top table identities drop-table ban unban bans fleet ban-set history peer-names deliver-device completions man help" -f -a "journal" -d 'Look into the journal of a server that is not running'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand help; and not __fish_seen_subcommand_from serve demo gateway journal check-config self-check who follow annotate status top table identities drop-table ban unban bans fleet ban-set history peer-names deliver-device completions man help" -f -a "check-config" -d 'Print the configuration that `serve` would use, and where each value comes from'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand help; and not __fish_seen_subcommand_from serve demo gateway journal check-config self-check who follow annotate status top table identities drop-table ban unban bans fleet ban-set history peer-names deliver-device completions man help" -f -a "self-check" -d 'Ask the server that runs with these options as a NAT64 would, from loopback'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand help; and not __fish_seen_subcommand_from serve demo gateway journal check-config self-check who follow annotate status top table identities drop-table ban unban bans fleet ban-set history peer-names deliver-device completions man help" -f -a "who" -d 'Say who was behind a NAT64\'s address and port, or where a client was'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand help; and not __fish_seen_subcommand_from serve demo gateway journal check-config self-check who follow annotate status top table identities drop-table ban unban bans fleet ban-set history peer-names deliver-device completions man help" -f -a "follow" -d 'Print the events as they come, from any point in the past on, or send them to a collector'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand help; and not __fish_seen_subcommand_from serve demo gateway journal check-config self-check who follow annotate status top table identities drop-table ban unban bans fleet ban-set history peer-names deliver-device completions man help" -f -a "annotate" -d 'Copy an access log, with the client in the place of each NAT64'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand help; and not __fish_seen_subcommand_from serve demo gateway journal check-config self-check who follow annotate status top table identities drop-table ban unban bans fleet ban-set history peer-names deliver-device completions man help" -f -a "status" -d 'Say how the server is doing, and what it holds'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand help; and not __fish_seen_subcommand_from serve demo gateway journal check-config self-check who follow annotate status top table identities drop-table ban unban bans fleet ban-set history peer-names deliver-device completions man help" -f -a "top" -d 'Show the same on the terminal, as it changes'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand help; and not __fish_seen_subcommand_from serve demo gateway journal check-config self-check who follow annotate status top table identities drop-table ban unban bans fleet ban-set history peer-names deliver-device completions man help" -f -a "table" -d 'Print the entries of a NAT64\'s table, as the server has them'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand help; and not __fish_seen_subcommand_from serve demo gateway journal check-config self-check who follow annotate status top table identities drop-table ban unban bans fleet ban-set history peer-names deliver-device completions man help" -f -a "identities" -d 'Print the control identities of all NAT64s, as the server knows them'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand help; and not __fish_seen_subcommand_from serve demo gateway journal check-config self-check who follow annotate status top table identities drop-table ban unban bans fleet ban-set history peer-names deliver-device completions man help" -f -a "drop-table" -d 'Have the server forget a NAT64: a `Deleted` for each entry stands in the event log'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand help; and not __fish_seen_subcommand_from serve demo gateway journal check-config self-check who follow annotate status top table identities drop-table ban unban bans fleet ban-set history peer-names deliver-device completions man help" -f -a "ban" -d 'Give a client no connection any more, and its NAT64\'s other clients theirs'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand help; and not __fish_seen_subcommand_from serve demo gateway journal check-config self-check who follow annotate status top table identities drop-table ban unban bans fleet ban-set history peer-names deliver-device completions man help" -f -a "unban" -d 'Give a client connections again'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand help; and not __fish_seen_subcommand_from serve demo gateway journal check-config self-check who follow annotate status top table identities drop-table ban unban bans fleet ban-set history peer-names deliver-device completions man help" -f -a "bans" -d 'Print who is banned, and until when'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand help; and not __fish_seen_subcommand_from serve demo gateway journal check-config self-check who follow annotate status top table identities drop-table ban unban bans fleet ban-set history peer-names deliver-device completions man help" -f -a "fleet" -d 'Have the server share its tables in another way with the other hosts of its fleet'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand help; and not __fish_seen_subcommand_from serve demo gateway journal check-config self-check who follow annotate status top table identities drop-table ban unban bans fleet ban-set history peer-names deliver-device completions man help" -f -a "ban-set" -d 'Keep the ports of banned clients in a set of nftables, and end connections for `ban --kill`'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand help; and not __fish_seen_subcommand_from serve demo gateway journal check-config self-check who follow annotate status top table identities drop-table ban unban bans fleet ban-set history peer-names deliver-device completions man help" -f -a "history" -d 'Make the history of an event log, by which `who` asks it, check it, or copy it'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand help; and not __fish_seen_subcommand_from serve demo gateway journal check-config self-check who follow annotate status top table identities drop-table ban unban bans fleet ban-set history peer-names deliver-device completions man help" -f -a "peer-names" -d 'Have programs on this host see the clients of NAT64s as their peers'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand help; and not __fish_seen_subcommand_from serve demo gateway journal check-config self-check who follow annotate status top table identities drop-table ban unban bans fleet ban-set history peer-names deliver-device completions man help" -f -a "deliver-device" -d 'Make or remove the TUN device through which a server delivers'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand help; and not __fish_seen_subcommand_from serve demo gateway journal check-config self-check who follow annotate status top table identities drop-table ban unban bans fleet ban-set history peer-names deliver-device completions man help" -f -a "completions" -d 'Print completions of this command line for a shell'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand help; and not __fish_seen_subcommand_from serve demo gateway journal check-config self-check who follow annotate status top table identities drop-table ban unban bans fleet ban-set history peer-names deliver-device completions man help" -f -a "man" -d 'Print a page of the manual'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand help; and not __fish_seen_subcommand_from serve demo gateway journal check-config self-check who follow annotate status top table identities drop-table ban unban bans fleet ban-set history peer-names deliver-device completions man help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand help; and __fish_seen_subcommand_from journal" -f -a "check" -d 'Say what is damaged, and what a repair would lose; changes nothing'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand help; and __fish_seen_subcommand_from journal" -f -a "repair" -d 'Keep all that is not damaged; the damaged files are put aside'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand help; and __fish_seen_subcommand_from fleet" -f -a "drain" -d 'Have it give all its tables to other hosts, and get none until it is started again'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand help; and __fish_seen_subcommand_from history" -f -a "build" -d 'Add all that the event log has by now; the server does so by itself, a day at a time'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand help; and __fish_seen_subcommand_from history" -f -a "check" -d 'Read all of it, and say what is wrong; changes nothing'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand help; and __fish_seen_subcommand_from history" -f -a "copy" -d 'Copy it, and the lines of the event log behind it, to where those of a fleet\'s hosts are'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand help; and __fish_seen_subcommand_from peer-names" -f -a "attach" -d 'Load the programs into the kernel, for servers with `--peer-names`; as root'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand help; and __fish_seen_subcommand_from peer-names" -f -a "detach" -d 'Remove the programs and all names; as root'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand help; and __fish_seen_subcommand_from peer-names" -f -a "status" -d 'Say what is attached, and how many names there are'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand help; and __fish_seen_subcommand_from deliver-device" -f -a "make" -d 'Make device, addresses, routes and rules, as far as they are not there; as root'
complete -c nat64handoff -n "__fish_nat64handoff_using_subcommand help; and __fish_seen_subcommand_from deliver-device" -f -a "remove" -d 'Remove them; as root'
