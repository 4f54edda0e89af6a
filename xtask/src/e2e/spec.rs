//! How a cluster is to be set up.

use std::path::PathBuf;
use std::rc::Rc;

use super::context::Context;
use super::lab::Lab;

/// Where a server keeps its store.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// A file in this directory.
    Dir(PathBuf),
    /// A raw block device.
    Device(PathBuf),
}

/// How to set up a cluster.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    /// One server per place.
    pub(crate) places: Vec<Place>,
    /// The volume's size, as the command line takes it.
    pub(crate) size: &'static str,
    /// The volume's policy.
    pub(crate) policy: &'static str,
    /// The binary, where it is not the one under test.
    pub(crate) binary: Option<PathBuf>,
    /// Environment for the servers.
    pub(crate) env: Vec<(&'static str, String)>,
    /// The machines to run on; without them everything shares the loopback.
    pub(crate) lab: Option<Rc<Lab>>,
    /// The file with the cluster's key, which every address but loopback needs.
    pub(crate) key: Option<PathBuf>,
}

impl Spec {
    /// `count` servers with a directory each, and a 512 MiB volume on all of them.
    pub(crate) fn dirs(ctx: &Context, count: usize) -> Self {
        Self::dirs_named(ctx, "s", count)
    }

    /// The same, with directories of another name.
    pub(crate) fn dirs_named(ctx: &Context, name: &str, count: usize) -> Self {
        let places = (1..=count)
            .map(|n| Place::Dir(ctx.path(&format!("{name}{n}"))))
            .collect();
        Self::on(places)
    }

    /// A server for each place, and a 512 MiB volume on all of them.
    pub(crate) fn on(places: Vec<Place>) -> Self {
        Self {
            places,
            size: "512MiB",
            policy: "sync_quorum",
            binary: None,
            env: Vec::new(),
            lab: None,
            key: None,
        }
    }
}
