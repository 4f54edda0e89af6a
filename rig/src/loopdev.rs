//! Loop devices and mounts, through the system's own tools; and what an earlier run left of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::RigError;

/// Attaches a loop device with direct I/O to `file`; the device's path.
pub(crate) fn attach(file: &Path) -> Result<PathBuf, RigError> {
    let args = ["--find", "--show", "--direct-io=on", "--sector-size=512"];
    let said = run("losetup", Command::new("losetup").args(args).arg(file))?;
    Ok(PathBuf::from(said.trim()))
}

/// Detaches `device`. One that is still open goes with its last opener, and answers EIO until then.
pub(crate) fn detach(device: &Path) -> Result<(), RigError> {
    run(
        "losetup",
        Command::new("losetup").arg("--detach").arg(device),
    )
    .map(drop)
}

/// Writes back and drops what the kernel caches of `device`.
pub(crate) fn flush_buffers(device: &Path) -> Result<(), RigError> {
    run(
        "blockdev",
        Command::new("blockdev").arg("--flushbufs").arg(device),
    )
    .map(drop)
}

/// Unmounts `mount`, at once; openers keep it until they close.
pub(crate) fn unmount(mount: &Path) -> Result<(), RigError> {
    run("umount", Command::new("umount").arg("--lazy").arg(mount)).map(drop)
}

/// Detaches every loop device over a file under `mount`, and unmounts it as often as it is mounted.
/// `mount` is absolute.
pub(crate) fn clear_leftovers(mount: &Path) -> Result<(), RigError> {
    for device in devices_under(mount)? {
        detach(&device)?;
    }
    while is_mounted(mount)? {
        unmount(mount)?;
    }
    Ok(())
}

/// The absolute form of `mount`, which may be a mount whose daemon is gone and so cannot be looked at itself.
pub(crate) fn absolute_mount(mount: &Path) -> Result<PathBuf, RigError> {
    let absolute = std::path::absolute(mount).map_err(RigError::io("find", mount))?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => {
            let parent = fs::canonicalize(parent).map_err(RigError::io("find", parent))?;
            Ok(parent.join(name))
        }
        (None, _) | (_, None) => Ok(absolute),
    }
}

fn devices_under(mount: &Path) -> Result<Vec<PathBuf>, RigError> {
    let sys = Path::new("/sys/block");
    let mut devices = Vec::new();
    for entry in fs::read_dir(sys).map_err(RigError::io("list", sys))? {
        let entry = entry.map_err(RigError::io("list", sys))?;
        // Absent for other block devices and for loop devices without a file.
        let Ok(file) = fs::read_to_string(entry.path().join("loop/backing_file")) else {
            continue;
        };
        if Path::new(file.trim_end()).starts_with(mount) {
            devices.push(Path::new("/dev").join(entry.file_name()));
        }
    }
    Ok(devices)
}

fn is_mounted(mount: &Path) -> Result<bool, RigError> {
    let table = Path::new("/proc/self/mounts");
    let mounts = fs::read_to_string(table).map_err(RigError::io("read", table))?;
    // The table writes a blank in a path as an octal escape.
    let at = |line: &str| {
        line.split(' ')
            .nth(1)
            .map(|at| PathBuf::from(at.replace("\\040", " ")))
    };
    Ok(mounts
        .lines()
        .any(|line| at(line).is_some_and(|at| at == mount)))
}

fn run(tool: &'static str, command: &mut Command) -> Result<String, RigError> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(RigError::io("run the tool", PathBuf::from(tool)))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(RigError::Tool {
            tool,
            status: output.status,
            stderr,
        })
    }
}
