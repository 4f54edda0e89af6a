//! The table of scenarios, cheapest first.

mod bad_cluster;
mod bad_input;
mod bad_store;
mod clients;
mod commands;
mod dev;
mod exhausted;
mod failover;
mod oracle;
mod partition;
mod paused;
mod power_cut;
mod replica;
mod restored;

use super::{Needs, Scenario};

/// Every scenario, in the order in which they run.
pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "oracle",
        about: "the verifying client finds planted faults, so that its silence means something",
        needs: Needs::Nothing,
        run: oracle::run,
    },
    Scenario {
        name: "oracle-power",
        about: "the power-cut disk loses what was not flushed, and the verifying client notices",
        needs: Needs::Root,
        run: oracle::power,
    },
    Scenario {
        name: "bad-input",
        about: "wrong arguments, names, sizes and configuration: a clear error and the documented exit code",
        needs: Needs::Nothing,
        run: bad_input::run,
    },
    Scenario {
        name: "bad-cluster",
        about: "ports in use, stores in use or of another server, wrong keys, unreachable masters",
        needs: Needs::Nothing,
        run: bad_cluster::run,
    },
    Scenario {
        name: "bad-store",
        about: "damaged superblocks, a device that is too small, a full disk",
        needs: Needs::Root,
        run: bad_store::run,
    },
    Scenario {
        name: "dev",
        about: "one command: serves, restarts a killed server, stops on Ctrl-C, finds its data again",
        needs: Needs::Nothing,
        run: dev::run,
    },
    Scenario {
        name: "commands",
        about: "what nbdinfo is told, and every command by qemu-io, unaligned too",
        needs: Needs::Nothing,
        run: commands::run,
    },
    Scenario {
        name: "image",
        about: "512 MiB in and out over four connections, byte-equal; qemu-img agrees",
        needs: Needs::Nothing,
        run: clients::image,
    },
    Scenario {
        name: "filesystem",
        about: "ext4 over nbdfuse and a loop device: files survive, e2fsck is clean",
        needs: Needs::Root,
        run: clients::filesystem,
    },
    Scenario {
        name: "replica-killed",
        about: "a replica is killed under fio with verify and comes back: no client error, one digest",
        needs: Needs::Nothing,
        run: replica::killed,
    },
    Scenario {
        name: "replica-paused",
        about: "a replica hangs: no request waits longer than a second for it",
        needs: Needs::Nothing,
        run: paused::replica,
    },
    Scenario {
        name: "no-descriptors",
        about: "every server runs out of descriptors: clients notice nothing, new work is refused until there are some",
        needs: Needs::Nothing,
        run: exhausted::descriptors,
    },
    Scenario {
        name: "no-memory",
        about: "a primary gets no more memory: it goes on or ends whole, no acknowledged write lost",
        needs: Needs::Nothing,
        run: exhausted::memory,
    },
    Scenario {
        name: "primary-paused",
        about: "a primary hangs past its lease: it answers nothing until it has a lease again",
        needs: Needs::Nothing,
        run: paused::primary,
    },
    Scenario {
        name: "primary-killed",
        about: "the primary is killed under load: a new epoch in time, no acknowledged write lost",
        needs: Needs::Nothing,
        run: failover::killed,
    },
    Scenario {
        name: "primary-restarted",
        about: "the primary is killed and restarted within its lease: never the same epoch again",
        needs: Needs::Nothing,
        run: failover::restarted,
    },
    Scenario {
        name: "master-restored",
        about: "the master comes back from a backup, then from nothing: it promotes nobody until it knows, nothing is lost",
        needs: Needs::Nothing,
        run: restored::run,
    },
    Scenario {
        name: "power-cut",
        about: "all stores lose power at once, unsynced sectors dropped or torn: no acknowledged write lost",
        needs: Needs::Root,
        run: power_cut::run,
    },
    Scenario {
        name: "power-cut-planted",
        about: "the same with servers that acknowledge before they flush: it must be noticed",
        needs: Needs::Root,
        run: power_cut::planted,
    },
    Scenario {
        name: "partition",
        about: "primaries and replicas are cut off, both ways and one way: one primary, no acknowledged write lost",
        needs: Needs::Root,
        run: partition::run,
    },
];
