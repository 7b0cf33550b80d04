//! The text of a table.

use crate::check::REVISION;
use crate::rule::{Clause, Test};
use crate::table::{MapContent, SetContent};
use crate::{
    Base, BuildError, Chain, ConnState, Element, End, Hook, LocalAddress, Map, Mark, MarkValue,
    Match, Policy, Rate, Reject, Rule, Set, Statement, Table, Verdict,
};
use sha2::{Digest, Sha256};
use std::fmt::Display;
use std::net::IpAddr;

impl Table {
    /// The `table ... { }` block, with the counter that holds its fingerprint.
    pub(crate) fn body(&self) -> Result<String, BuildError> {
        let content = self.content()?;
        let revision = revision(&content);
        let id = &self.id;
        Ok(format!(
            "table {id} {{\n\tcounter {revision} {{ }}\n{content}}}\n"
        ))
    }

    /// Name of the counter that is in the kernel's table if that was made from this description.
    pub(crate) fn revision(&self) -> Result<String, BuildError> {
        self.content().map(|content| revision(&content))
    }

    fn content(&self) -> Result<String, BuildError> {
        self.check()?;
        let mut out = Lines::default();
        for name in &self.counters {
            out.line(1, format_args!("counter {name} {{ }}"));
        }
        for set in &self.sets {
            set.render(&mut out);
        }
        for map in &self.maps {
            map.render(&mut out);
        }
        for chain in &self.chains {
            chain.render(&mut out);
        }
        Ok(out.0)
    }
}

fn revision(content: &str) -> String {
    let digest = Sha256::digest(content.as_bytes());
    format!("{REVISION}{}", hex::encode(&digest[..8]))
}

/// Indented text.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn line(&mut self, depth: usize, text: impl Display) {
        self.0.push_str(&"\t".repeat(depth));
        self.0.push_str(&text.to_string());
        self.0.push('\n');
    }

    /// `elements = { }`, one to a line so that differences and complaints are easy to read.
    fn elements(&mut self, elements: impl IntoIterator<Item = String>) {
        let elements: Vec<String> = elements.into_iter().collect();
        if elements.is_empty() {
            return;
        }
        self.line(2, "elements = {");
        for element in elements {
            self.line(3, format_args!("{element},"));
        }
        self.line(2, "}");
    }
}

impl Set {
    fn render(&self, out: &mut Lines) {
        out.line(1, format_args!("set {} {{", self.name));
        out.line(2, format_args!("type {}", self.key.type_text()));
        match &self.content {
            SetContent::Fixed(elements) => {
                if elements.iter().any(Element::has_range) {
                    out.line(2, "flags interval");
                    if self.key.kinds().count() == 1 {
                        out.line(2, "auto-merge");
                    }
                }
                out.elements(elements.iter().map(ToString::to_string));
            }
            SetContent::Kept { timeout } => {
                if let Some(timeout) = timeout {
                    out.line(2, "flags timeout");
                    out.line(2, format_args!("timeout {}s", timeout.as_secs()));
                }
            }
        }
        out.line(1, "}");
    }
}

impl Map {
    fn render(&self, out: &mut Lines) {
        let (to, entries): (_, Vec<String>) = match &self.content {
            MapContent::Verdicts(entries) => ("verdict", texts(entries, verdict)),
            MapContent::Marks(entries) => ("mark", texts(entries, |mark| format!("{mark:#x}"))),
            MapContent::Targets4(entries) => (
                "ipv4_addr . inet_service",
                texts(entries, |(address, port)| format!("{address} . {port}")),
            ),
            MapContent::Targets6(entries) => (
                "ipv6_addr . inet_service",
                texts(entries, |(address, port)| format!("{address} . {port}")),
            ),
        };
        out.line(1, format_args!("map {} {{", self.name));
        out.line(2, format_args!("type {} : {to}", self.key.type_text()));
        if self.elements().into_iter().any(Element::has_range) {
            out.line(2, "flags interval");
        }
        out.elements(entries);
        out.line(1, "}");
    }
}

fn texts<T>(entries: &[(Element, T)], text: impl Fn(&T) -> String) -> Vec<String> {
    let entry = |(key, value): &(Element, T)| format!("{key} : {}", text(value));
    entries.iter().map(entry).collect()
}

impl Chain {
    fn render(&self, out: &mut Lines) {
        out.line(1, format_args!("chain {} {{", self.name));
        if let Some(base) = &self.base {
            out.line(2, base.text());
        }
        for rule in &self.rules {
            out.line(2, rule.text());
        }
        out.line(1, "}");
    }
}

impl Base {
    fn text(&self) -> String {
        let kind = self.kind();
        let (hook, priority) = (self.hook.text(), self.priority);
        let device = match &self.hook {
            Hook::Ingress(interface) => format!(" device \"{interface}\""),
            Hook::Prerouting | Hook::Input | Hook::Forward | Hook::Output | Hook::Postrouting => {
                String::new()
            }
        };
        let policy = self.policy.text();
        format!("type {kind} hook {hook}{device} priority {priority}; policy {policy};")
    }

    /// nft's word for the type of the chain.
    pub(crate) fn kind(&self) -> &'static str {
        if self.nat { "nat" } else { "filter" }
    }
}

impl Hook {
    /// nft's word.
    pub(crate) fn text(&self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
            Self::Ingress(_) => "ingress",
        }
    }
}

impl Policy {
    fn text(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Drop => "drop",
        }
    }
}

impl Rule {
    fn text(&self) -> String {
        let mut words: Vec<String> = self.clauses.iter().map(Clause::text).collect();
        words.extend(self.end.as_ref().map(End::text));
        if words.is_empty() {
            // nft knows no rule without anything in it.
            words.push("continue".to_owned());
        }
        words.push(format!("comment \"{}\"", self.tag));
        words.join(" ")
    }
}

impl Clause {
    fn text(&self) -> String {
        match self {
            Self::Match(condition) => condition.text(),
            Self::Statement(statement) => statement.text(),
        }
    }
}

impl Match {
    fn text(&self) -> String {
        let unless = |not: bool| if not { "!= " } else { "" };
        match &self.0 {
            Test::Values { field, not, values } => {
                let texts: Vec<String> = values.iter().map(ToString::to_string).collect();
                let not = unless(*not);
                match texts.as_slice() {
                    [one] => format!("{field} {not}{one}"),
                    many => format!("{field} {not}{{ {} }}", many.join(", ")),
                }
            }
            Test::Within { key, not, set } => format!("{key} {}@{set}", unless(*not)),
            Test::Bits { field, mask, value } => format!("{field} & {mask:#x} == {value:#x}"),
            Test::State(states) => {
                let states: Vec<&str> = states.iter().map(|state| state.text()).collect();
                format!("ct state {}", states.join(","))
            }
            Test::Translated => "ct status dnat".to_owned(),
            Test::Reply(true) => "ct direction reply".to_owned(),
            Test::Reply(false) => "ct direction original".to_owned(),
            Test::Target(kind) => format!("fib daddr type {}", kind.text()),
            Test::Limit(limit) => {
                let over = if limit.over { "over " } else { "" };
                let burst = limit.burst;
                let packets = |n: u32, time: &str| {
                    format!("limit rate {over}{n}/{time} burst {burst} packets")
                };
                match limit.rate {
                    Rate::Packets(n) => packets(n, "second"),
                    Rate::PacketsPerMinute(n) => packets(n, "minute"),
                    Rate::PacketsPerHour(n) => packets(n, "hour"),
                    Rate::Bytes(n) => {
                        format!("limit rate {over}{n} bytes/second burst {burst} bytes")
                    }
                }
            }
        }
    }
}

impl ConnState {
    fn text(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Established => "established",
            Self::Related => "related",
            Self::Invalid => "invalid",
        }
    }
}

impl LocalAddress {
    fn text(self) -> &'static str {
        match self {
            Self::Own => "local",
            Self::Broadcast => "broadcast",
            Self::Multicast => "multicast",
        }
    }
}

impl Mark {
    fn text(self) -> &'static str {
        match self {
            Self::Packet => "meta mark",
            Self::Connection => "ct mark",
        }
    }
}

impl Statement {
    fn text(&self) -> String {
        match self {
            Self::Count(name) => format!("counter name \"{name}\""),
            Self::Mark(mark, value) => {
                let mark = mark.text();
                match value {
                    MarkValue::Is(value) => format!("{mark} set {value:#x}"),
                    MarkValue::Or(bits) => format!("{mark} set {mark} | {bits:#x}"),
                    MarkValue::KeepOr(keep, bits) => {
                        format!("{mark} set {mark} & {keep:#x} | {bits:#x}")
                    }
                    MarkValue::From(other, u32::MAX) => format!("{mark} set {}", other.text()),
                    MarkValue::From(other, mask) => {
                        format!("{mark} set {} & {mask:#x}", other.text())
                    }
                    MarkValue::By(key, map) => format!("{mark} set {key} map @{map}"),
                }
            }
            Self::Log(log) => format!("log group {} prefix \"{}\"", log.group, log.prefix),
        }
    }
}

fn verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Accept => "accept".to_owned(),
        Verdict::Drop => "drop".to_owned(),
        Verdict::Return => "return".to_owned(),
        Verdict::Jump(chain) => format!("jump {chain}"),
        Verdict::Goto(chain) => format!("goto {chain}"),
    }
}

impl End {
    fn text(&self) -> String {
        match self {
            Self::Verdict(what) => verdict(what),
            Self::VerdictBy(key, map) => format!("{key} vmap @{map}"),
            Self::Reject(Reject::TcpReset) => "reject with tcp reset".to_owned(),
            Self::Reject(Reject::PortUnreachable) => {
                "reject with icmpx type port-unreachable".to_owned()
            }
            Self::Reject(Reject::Prohibited) => {
                "reject with icmpx type admin-prohibited".to_owned()
            }
            Self::Dnat(IpAddr::V4(address), None) => format!("dnat ip to {address}"),
            Self::Dnat(IpAddr::V4(address), Some(port)) => format!("dnat ip to {address}:{port}"),
            Self::Dnat(IpAddr::V6(address), None) => format!("dnat ip6 to {address}"),
            Self::Dnat(IpAddr::V6(address), Some(port)) => {
                format!("dnat ip6 to [{address}]:{port}")
            }
            Self::Dnat4By(key, map) => format!("dnat ip to {key} map @{map}"),
            Self::Dnat6By(key, map) => format!("dnat ip6 to {key} map @{map}"),
            Self::Snat(IpAddr::V4(address)) => format!("snat ip to {address}"),
            Self::Snat(IpAddr::V6(address)) => format!("snat ip6 to {address}"),
            Self::Masquerade => "masquerade".to_owned(),
            Self::Redirect(port) => format!("redirect to :{port}"),
        }
    }
}
