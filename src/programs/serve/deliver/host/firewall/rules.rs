//! [`Ruleset`]: what `nft list ruleset` prints, as far as it tells whether a packet that opens a
//! connection gets in. Rules of ufw and firewalld stand there, too.
//!
//! What is not understood of a rule may match or not: such a rule is taken to let in, and not to
//! keep out. So what is said to be kept out mostly is, and some of what is kept out is not said.

use crate::ip::transport::Transport;

/// How deep chains lead to each other.
const DEPTH_MAX: usize = 16;

/// A packet that comes in.
#[derive(Debug, Clone, Copy)]
pub struct Incoming<'a> {
    pub device: &'a str,
    pub ipv6: bool,
    pub transport: Transport,
    pub port: u16,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    In,
    Out,
}

/// Whether a rule is about a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Matches {
    No,
    Maybe,
    Yes,
}

impl From<bool> for Matches {
    fn from(is: bool) -> Self {
        if is { Self::Yes } else { Self::No }
    }
}

/// What is done with a packet that a rule is about.
#[derive(Debug, PartialEq, Eq)]
enum Then<'a> {
    Done(Fate),
    Return,
    Jump(&'a str),
    Goto(&'a str),
    Nothing,
}

/// A chain of rules.
#[derive(Debug)]
pub struct Chain {
    pub family: String,
    pub table: String,
    pub name: String,
    /// For one that all packets that come in go through: what becomes of those of which no rule
    /// says it.
    policy: Option<Fate>,
    rules: Vec<Vec<String>>,
}

/// All chains.
#[derive(Debug)]
pub struct Ruleset {
    chains: Vec<Chain>,
}

impl Ruleset {
    /// Of the text that nft prints.
    pub fn parse(text: &str) -> Self {
        let mut chains: Vec<Chain> = Vec::new();
        let (mut family, mut table, mut is_chain) = (String::new(), String::new(), false);
        let mut rule = Vec::new();
        for line in text.lines() {
            let words = words(line);
            let words: Vec<_> = words.iter().map(String::as_str).collect();
            match words[..] {
                ["table", of, name, "{"] => (family, table) = (of.to_owned(), name.to_owned()),
                ["chain", name, "{"] => {
                    let (family, table, name) = (family.clone(), table.clone(), name.to_owned());
                    chains.push(Chain { family, table, name, policy: None, rules: Vec::new() });
                    is_chain = true;
                }
                ["}"] if rule.is_empty() => is_chain = false,
                _ if !is_chain || words.is_empty() || words[0].starts_with('#') => {}
                ["type", "filter", "hook", "input" | "prerouting", ..] => {
                    if let Some(chain) = chains.last_mut() {
                        let drops = line.contains("policy drop");
                        chain.policy = Some(if drops { Fate::Out } else { Fate::In });
                    }
                }
                ["type", ..] => {}
                _ => {
                    // The elements of a set may take several lines.
                    rule.extend(words.iter().map(|&word| word.to_owned()));
                    let count = |brace| rule.iter().filter(|word| *word == brace).count();
                    if count("{") == count("}")
                        && let Some(chain) = chains.last_mut()
                    {
                        chain.rules.push(std::mem::take(&mut rule));
                    }
                }
            }
        }
        Self { chains }
    }

    /// The chains that all packets that come in go through.
    pub fn entries(&self) -> impl Iterator<Item = &Chain> {
        self.chains.iter().filter(|chain| {
            chain.policy.is_some() && matches!(&*chain.family, "inet" | "ip" | "ip6")
        })
    }

    /// Whether there is a chain whose name begins so.
    pub fn has_chain(&self, start: &str) -> bool {
        self.chains.iter().any(|chain| chain.name.starts_with(start))
    }

    /// What becomes of a packet in one of [`Ruleset::entries`].
    pub fn fate(&self, entry: &Chain, packet: Incoming<'_>) -> Fate {
        let others = if packet.ipv6 { "ip" } else { "ip6" };
        if entry.family == others {
            return Fate::In;
        }
        self.walk(entry, packet, DEPTH_MAX).or(entry.policy).unwrap_or(Fate::In)
    }

    fn walk(&self, chain: &Chain, packet: Incoming<'_>, depth: usize) -> Option<Fate> {
        for rule in &chain.rules {
            let (matches, then) = read(rule, packet);
            if matches == Matches::No {
                continue;
            }
            let target = match then {
                Then::Jump(name) | Then::Goto(name) => self.chain(chain, name),
                _ => None,
            };
            let fate = match then {
                Then::Done(fate) => Some(fate),
                Then::Return if matches == Matches::Yes => return None,
                _ => target
                    .filter(|_| depth > 0)
                    .and_then(|target| self.walk(target, packet, depth - 1)),
            };
            match fate {
                Some(Fate::Out) if matches == Matches::Maybe => {}
                Some(fate) => return Some(fate),
                None if matches == Matches::Yes && matches!(then, Then::Goto(_)) => return None,
                None => {}
            }
        }
        None
    }

    fn chain(&self, from: &Chain, name: &str) -> Option<&Chain> {
        let is_it = |chain: &&Chain| {
            chain.name == name && chain.table == from.table && chain.family == from.family
        };
        self.chains.iter().find(is_it)
    }

    /// The devices that rules name, but for the loopback.
    pub fn devices(&self) -> Vec<&str> {
        let mut devices = Vec::new();
        for rule in self.chains.iter().flat_map(|chain| &chain.rules) {
            for at in (0..rule.len()).filter(|&at| matches!(&*rule[at], "iif" | "iifname")) {
                devices.extend(Operand::of(rule, at + 1).values.iter().map(|&value| plain(value)));
            }
        }
        devices.retain(|device| *device != "lo" && !device.ends_with('*'));
        devices.sort_unstable();
        devices.dedup();
        devices
    }

    /// The ports that rules let packets in to, from whichever address.
    pub fn ports(&self) -> Vec<(Transport, u16)> {
        let mut ports = Vec::new();
        for rule in self.chains.iter().flat_map(|chain| &chain.rules) {
            let about_addresses = rule.iter().any(|word| matches!(&**word, "saddr" | "daddr"));
            if about_addresses || !rule.iter().any(|word| word == "accept") {
                continue;
            }
            for at in (1..rule.len()).filter(|&at| rule[at] == "dport") {
                let transport = match &*rule[at - 1] {
                    "tcp" => Transport::Tcp,
                    "udp" => Transport::Udp,
                    _ => continue,
                };
                let values = Operand::of(rule, at + 1).values;
                let single = values.iter().filter_map(|value| value.parse().ok());
                ports.extend(single.map(|port| (transport, port)));
            }
        }
        ports
    }

    /// To which chain packets of a device go here, by the first rule that says so.
    pub fn goes_to(&self, chain: &str, device: &str) -> Option<&str> {
        let chain = self.chains.iter().find(|other| other.name == chain)?;
        chain.rules.iter().find_map(|rule| {
            let packet = Incoming { device, ipv6: true, transport: Transport::Tcp, port: 0 };
            match read(rule, packet) {
                (Matches::Yes, Then::Goto(name) | Then::Jump(name)) => Some(name),
                _ => None,
            }
        })
    }
}

/// Words, where a text between quotes is one, and braces, commas and what is around them others.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut is_quoted = false;
    for letter in line.trim().chars() {
        let last = words.len() - 1;
        match letter {
            '"' => {
                is_quoted = !is_quoted;
                words[last].push(letter);
            }
            _ if is_quoted => words[last].push(letter),
            '{' | '}' | ',' | ';' => words.extend([letter.to_string(), String::new()]),
            _ if letter.is_whitespace() => words.push(String::new()),
            _ => words[last].push(letter),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn plain(value: &str) -> &str {
    value.trim_matches('"')
}

/// What something is compared with.
struct Operand<'a> {
    is_not: bool,
    values: Vec<&'a str>,
    /// Whether it is no list of values: a named set, or a combination.
    is_unknown: bool,
    /// Where it ends.
    end: usize,
}

impl<'a> Operand<'a> {
    fn of(rule: &'a [String], start: usize) -> Self {
        let word = |at: usize| rule.get(at).map_or("", String::as_str);
        let is_not = word(start) == "!=";
        let mut at = start + usize::from(is_not || word(start) == "==");
        let mut values = Vec::new();
        if word(at) == "{" {
            while at < rule.len() && word(at) != "}" {
                at += 1;
                if !matches!(word(at), "," | "}" | "") {
                    values.push(word(at));
                }
            }
            at += 1;
        } else {
            values.push(word(at));
            at += 1;
            while word(at) == "," {
                values.push(word(at + 1));
                at += 2;
            }
        }
        let odd =
            |value: &&str| value.starts_with('@') || matches!(*value, "." | "vmap" | "&" | ":");
        let is_unknown = values.iter().any(odd);
        Self { is_not, values, is_unknown, end: at }
    }

    fn matches(&self, is_it: impl Fn(&str) -> bool) -> Matches {
        if self.is_unknown {
            return Matches::Maybe;
        }
        (self.values.iter().any(|value| is_it(plain(value))) != self.is_not).into()
    }
}

/// Whether a rule is about a packet, and what is done then.
fn read<'a>(rule: &'a [String], packet: Incoming<'_>) -> (Matches, Then<'a>) {
    let mut matches = Matches::Yes;
    let mut at = 0;
    while let Some(word) = rule.get(at) {
        let next = rule.get(at + 1).map_or("", String::as_str);
        let then = match &**word {
            "accept" | "queue" => Then::Done(Fate::In),
            "drop" | "reject" => Then::Done(Fate::Out),
            "return" => Then::Return,
            "jump" => Then::Jump(next),
            "goto" => Then::Goto(next),
            _ => Then::Nothing,
        };
        if then != Then::Nothing {
            return (matches, then);
        }
        let (is, end) = condition(rule, at, next, packet);
        matches = matches.min(is);
        at = end;
    }
    (matches, Then::Nothing)
}

/// Whether the condition that begins here holds, and where it ends.
fn condition(rule: &[String], at: usize, next: &str, packet: Incoming<'_>) -> (Matches, usize) {
    let Incoming { device, ipv6, transport, port } = packet;
    let (name, number) = if transport == Transport::Tcp { ("tcp", "6") } else { ("udp", "17") };
    let first = Operand::of(rule, at + 1);
    let second = Operand::of(rule, at + 2);
    let is_device = |value: &str| match value.strip_suffix('*') {
        Some(start) => device.starts_with(start),
        None => value == device,
    };
    let is_port = |value: &str| match value.split_once('-') {
        Some((from, to)) => {
            from.parse().is_ok_and(|from: u16| from <= port)
                && to.parse().is_ok_and(|to: u16| port <= to)
        }
        None => value.parse() == Ok(port),
    };
    let is_protocol = |value: &str| value == name || value == number;
    match (rule[at].as_str(), next) {
        ("iif" | "iifname", _) => (first.matches(is_device), first.end),
        ("meta", "iif" | "iifname") => (second.matches(is_device), second.end),
        ("meta", "l4proto") | ("ip", "protocol") | ("ip6", "nexthdr") => {
            (second.matches(is_protocol), second.end)
        }
        ("meta", "nfproto") => {
            let family = if ipv6 { "ipv6" } else { "ipv4" };
            (second.matches(|value| value == family), second.end)
        }
        ("ip", _) if ipv6 => (Matches::No, second.end),
        ("ip6", _) if !ipv6 => (Matches::No, second.end),
        // Clients have all addresses.
        ("ip" | "ip6", "saddr") if !second.is_not => (Matches::No, second.end),
        ("ip" | "ip6", "daddr") => {
            let is_near = |value: &&str| value.starts_with("fe80") || value.starts_with("ff");
            let near = second.values.iter().all(is_near) && !second.is_not;
            (if near { Matches::No } else { Matches::Maybe }, second.end)
        }
        ("tcp" | "udp" | "th", "dport") => {
            let other = rule[at] != "th" && rule[at] != name;
            (if other { Matches::No } else { second.matches(is_port) }, second.end)
        }
        ("tcp" | "udp", _) if rule[at] != name => (Matches::No, second.end),
        ("icmp" | "icmpv6" | "igmp", _) => (Matches::No, second.end),
        ("ct", "state") => {
            (second.matches(|value| matches!(value, "new" | "untracked")), second.end)
        }
        ("ct", "status") => (Matches::from(second.is_not), second.end),
        // There is a route back.
        ("fib", _) => match rule[at..].iter().position(|word| word == "type") {
            Some(place) => {
                let kind = Operand::of(rule, at + place + 1);
                (kind.matches(|value| value == "local"), kind.end)
            }
            None => {
                let ends = |word: &String| matches!(&**word, "missing" | "exists");
                let place = rule[at..].iter().position(ends).unwrap_or(0);
                ((rule[at + place] == "exists").into(), at + place + 1)
            }
        },
        ("counter", "packets") => (Matches::Yes, at + 5),
        ("counter" | "log", _) => (Matches::Yes, at + 1),
        ("prefix" | "level" | "flags" | "group" | "comment" | "rate" | "burst", _) => {
            (Matches::Yes, at + 2)
        }
        ("limit" | "packets" | "bytes" | "," | ";", _) => (Matches::Yes, at + 1),
        _ => (Matches::Maybe, at + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fate(rules: &str, device: &str, ipv6: bool, port: u16) -> Fate {
        let text = format!(
            "table inet f {{\nchain in {{\ntype filter hook input priority 0; {rules}\n}}\n}}\n"
        );
        let ruleset = Ruleset::parse(&text);
        let transport = Transport::Tcp;
        let entry = ruleset.entries().next().unwrap();
        ruleset.fate(entry, Incoming { device, ipv6, transport, port })
    }

    #[test]
    fn rules_are_about_the_packets_that_they_name() {
        let cases = [
            ("policy accept;", Fate::In),
            ("policy drop;", Fate::Out),
            ("policy drop;\ntcp dport 80 accept", Fate::In),
            ("policy drop;\ntcp dport 81 accept", Fate::Out),
            ("policy drop;\nudp dport 80 accept", Fate::Out),
            (
                "policy drop;\ntcp dport { 22, 70-90,\n 443 } counter packets 5 bytes 70 accept",
                Fate::In,
            ),
            ("policy drop;\ntcp dport != { 22, 80 } accept", Fate::Out),
            ("policy drop;\niifname \"eth0\" accept", Fate::Out),
            ("policy drop;\niifname { \"eth0\", \"ho0\" } tcp dport 80 accept", Fate::In),
            ("policy drop;\niifname \"ho*\" accept", Fate::In),
            ("policy drop;\niifname != \"eth0\" accept", Fate::In),
            ("policy accept;\niifname != { \"eth0\", \"lo\" } drop", Fate::Out),
            (
                "policy accept;\nct state invalid drop\nct state established,related accept",
                Fate::In,
            ),
            (
                "policy accept;\nct state new log prefix \"accept } \" reject with icmpx admin-prohibited",
                Fate::Out,
            ),
            ("policy accept;\nmeta nfproto ipv6 fib saddr . mark . iif oif missing drop", Fate::In),
            ("policy drop;\nip6 saddr 2001:db8::/32 accept", Fate::Out),
            ("policy drop;\nip saddr 10.0.0.0/8 accept", Fate::Out),
            ("policy drop;\nmeta l4proto { icmp, ipv6-icmp } accept", Fate::Out),
            ("policy drop;\nmeta l4proto tcp comment \"drop\" accept", Fate::In),
            // What is not known is taken to let in.
            ("policy drop;\ntcp dport @open accept", Fate::In),
            ("policy accept;\ntcp dport @open drop", Fate::In),
            ("policy accept;\nmeta mark 0x1 drop", Fate::In),
        ];
        for (rules, expected) in cases {
            assert_eq!(fate(rules, "ho0", true, 80), expected, "{rules}");
        }
        assert_eq!(fate("policy drop;\nip saddr != 10.0.0.0/8 accept", "ho0", false, 80), Fate::In);
    }

    #[test]
    fn chains_lead_to_each_other() {
        let of = |last: &str, name: &str| {
            let text = format!(
                "table ip6 f {{\nset s {{\ntype inet_service\nelements = {{ 80 }}\n}}\n\
                 chain a {{\ntcp dport 80 return\ntcp dport 81 accept\niifname \"ho0\" goto b\n}}\n\
                 chain b {{\n{last}\n}}\nchain in {{\ntype filter hook input priority 0; policy drop;\n\
                 jump a\ntcp dport 82 accept\n}}\n}}\n"
            );
            let ruleset = Ruleset::parse(&text);
            let entry = ruleset.entries().next().unwrap();
            let transport = Transport::Tcp;
            let of_port =
                |port| ruleset.fate(entry, Incoming { device: name, ipv6: true, transport, port });
            [80, 81, 82].map(of_port)
        };
        assert_eq!(of("", "ho0"), [Fate::Out, Fate::In, Fate::In]);
        assert_eq!(of("reject", "ho0"), [Fate::Out, Fate::In, Fate::Out]);
        assert_eq!(of("reject", "eth0"), [Fate::Out, Fate::In, Fate::In]);
        // One that leads to itself.
        assert_eq!(of("jump b", "ho0"), [Fate::Out, Fate::In, Fate::In]);
    }
}
