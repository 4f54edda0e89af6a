//! The Debian packages that the end-to-end tests and benchmarks need: found, installed when root, else named.

use std::path::Path;
use std::process::Command;

use rustix::process::geteuid;

use crate::error::{Result, ensure};
use crate::workspace::run;

/// A file that must exist, and the packages that may bring it (Debian releases differ), in order of preference.
struct Wanted {
    file: &'static str,
    packages: &'static [&'static str],
}

const WANTED: &[Wanted] = &[
    Wanted {
        file: "/usr/bin/fio",
        packages: &["fio"],
    },
    Wanted {
        file: "/usr/bin/nbdcopy",
        packages: &["libnbd-bin"],
    },
    Wanted {
        file: "/usr/bin/nbdinfo",
        packages: &["libnbd-bin"],
    },
    Wanted {
        file: "/usr/bin/nbdfuse",
        packages: &["libnbd-bin", "nbdfuse"],
    },
    Wanted {
        file: "/usr/bin/python3",
        packages: &["python3"],
    },
    Wanted {
        file: "/usr/lib/python3/dist-packages/nbd.py",
        packages: &["python3-libnbd"],
    },
    Wanted {
        file: "/usr/bin/qemu-img",
        packages: &["qemu-utils"],
    },
    Wanted {
        file: "/usr/bin/qemu-nbd",
        packages: &["qemu-utils"],
    },
    Wanted {
        file: "/bin/fusermount3",
        packages: &["fuse3"],
    },
    Wanted {
        file: "/sbin/mkfs.ext4",
        packages: &["e2fsprogs"],
    },
    Wanted {
        file: "/sbin/losetup",
        packages: &["mount", "util-linux"],
    },
    Wanted {
        file: "/bin/mount",
        packages: &["mount"],
    },
    Wanted {
        file: "/usr/bin/setpriv",
        packages: &["util-linux"],
    },
    Wanted {
        file: "/sbin/ip",
        packages: &["iproute2"],
    },
    Wanted {
        file: "/usr/sbin/nft",
        packages: &["nftables"],
    },
];

/// Sees to it that every tool is there: installs what is missing when root, otherwise names it and fails.
pub(crate) fn provide() -> Result<()> {
    let missing = missing(0);
    if missing.is_empty() {
        return Ok(());
    }
    ensure!(
        geteuid().is_root(),
        "these Debian packages are missing: {0}\nas root: apt-get install --no-install-recommends {0}",
        missing.join(" ")
    );
    run(Command::new("apt-get").args(["-q", "update"]))?;
    // A file may have moved between packages: the second round asks for the other package.
    for choice in 0..2 {
        let missing = self::missing(choice);
        if missing.is_empty() {
            break;
        }
        let installed = run(Command::new("apt-get")
            .args(["-q", "-y", "install", "--no-install-recommends"])
            .args(&missing)
            .env("DEBIAN_FRONTEND", "noninteractive"));
        if choice > 0 {
            installed?;
        }
    }
    let still: Vec<&str> = absent().map(|wanted| wanted.file).collect();
    ensure!(
        still.is_empty(),
        "the packages are installed, but these files are not there: {}",
        still.join(" ")
    );
    Ok(())
}

fn absent() -> impl Iterator<Item = &'static Wanted> {
    WANTED
        .iter()
        .filter(|wanted| !Path::new(wanted.file).exists())
}

fn missing(choice: usize) -> Vec<&'static str> {
    let mut packages: Vec<&str> = absent()
        .filter_map(|wanted| {
            wanted
                .packages
                .get(choice.min(wanted.packages.len() - 1))
                .copied()
        })
        .collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}
