//! Machines on one desk: a network namespace for the master and for each server, on a bridge, with links that can
//! be cut one way. The clients live on the host's side of the bridge.
//!
//! A cut is an nftables rule on the *receiver's* input: what a node sends still leaves it, as on a real network.

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use crate::error::Result;
use crate::process::Tool;

/// A machine of the lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Node {
    /// Where the master runs.
    Master,
    /// Where the server with this index runs.
    Server(usize),
}

/// The namespaces and their bridge. Dropping it removes them.
#[derive(Debug)]
pub(crate) struct Lab {
    /// Distinguishes labs of runs at the same time, also in their addresses.
    tag: u8,
    servers: usize,
    next_port: Cell<u16>,
}

impl Lab {
    /// Makes a master's node and `servers` more.
    pub(crate) fn new(servers: usize) -> Result<Self> {
        let tag = u8::try_from(std::process::id() % 250).expect("less than 250");
        let lab = Self {
            tag,
            servers,
            next_port: Cell::new(7000),
        };
        let bridge = lab.bridge();
        ip(&["link", "add", &bridge, "type", "bridge"])?;
        ip(&[
            "address",
            "add",
            &format!("{}/24", lab.host()),
            "dev",
            &bridge,
        ])?;
        ip(&["link", "set", &bridge, "up"])?;
        for node in lab.nodes() {
            lab.add(node)?;
        }
        Ok(lab)
    }

    fn add(&self, node: Node) -> Result<()> {
        let (space, link, bridge) = (self.space(node), self.link(node), self.bridge());
        let address = format!("{}/24", self.ip(node));
        ip(&["netns", "add", &space])?;
        ip(&[
            "link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &space,
        ])?;
        ip(&["link", "set", &link, "master", &bridge, "up"])?;
        ip(&["-n", &space, "address", "add", &address, "dev", "eth0"])?;
        ip(&["-n", &space, "link", "set", "eth0", "up"])?;
        ip(&["-n", &space, "link", "set", "lo", "up"])?;
        self.nft(node, &["add", "table", "inet", "lab"])?;
        self.nft(
            node,
            &[
                "add",
                "chain",
                "inet",
                "lab",
                "cut",
                "{ type filter hook input priority 0 ; policy accept ; }",
            ],
        )
    }

    /// From here on `to` receives nothing from `from`.
    pub(crate) fn cut(&self, from: Node, to: Node) -> Result<()> {
        let source = self.ip(from).to_string();
        self.nft(
            to,
            &[
                "add", "rule", "inet", "lab", "cut", "ip", "saddr", &source, "drop",
            ],
        )
    }

    /// From here on neither receives anything from the other.
    pub(crate) fn part(&self, one: Node, other: Node) -> Result<()> {
        self.cut(one, other)?;
        self.cut(other, one)
    }

    /// Every cut is undone.
    pub(crate) fn heal(&self) -> Result<()> {
        self.nodes()
            .try_for_each(|node| self.nft(node, &["flush", "chain", "inet", "lab", "cut"]))
    }

    /// An address of a node that was not given before.
    pub(crate) fn address(&self, node: Node) -> SocketAddr {
        let port = self.next_port.get();
        self.next_port.set(port + 1);
        SocketAddr::from((self.ip(node), port))
    }

    /// What to put before a command line so that it runs on the node, under the same process id.
    pub(crate) fn on(&self, node: Node) -> [String; 4] {
        [
            "ip".to_owned(),
            "netns".to_owned(),
            "exec".to_owned(),
            self.space(node),
        ]
    }

    /// Every machine but the host.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = Node> + use<> {
        std::iter::once(Node::Master).chain((0..self.servers).map(Node::Server))
    }

    fn nft(&self, node: Node, rule: &[&str]) -> Result<()> {
        let on = self.on(node);
        Tool::new(&on[0])
            .args(&on[1..])
            .arg("nft")
            .args(rule)
            .succeed()
            .map(|_finished| ())
    }

    fn bridge(&self) -> String {
        format!("mrl{}", self.tag)
    }

    fn space(&self, node: Node) -> String {
        format!("mrl{}-{}", self.tag, last_octet(node))
    }

    fn link(&self, node: Node) -> String {
        format!("mrl{}v{}", self.tag, last_octet(node))
    }

    fn host(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.tag, 1)
    }

    fn ip(&self, node: Node) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.tag, last_octet(node))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for node in self.nodes() {
            quietly(&["netns", "delete", &self.space(node)]);
            quietly(&["link", "delete", &self.link(node)]);
        }
        quietly(&["link", "delete", &self.bridge()]);
    }
}

fn last_octet(node: Node) -> u8 {
    match node {
        Node::Master => 10,
        Node::Server(n) => u8::try_from(11 + n).expect("a handful of servers"),
    }
}

fn ip(args: &[&str]) -> Result<()> {
    Tool::new("ip").args(args).succeed().map(|_finished| ())
}

fn quietly(args: &[&str]) {
    let _gone_already = Command::new("ip").args(args).output();
}
