//! Stock clients: nbdcopy, qemu-img, and a kernel file system over nbdfuse and a loop device.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use crate::e2e::cluster::Cluster;
use crate::e2e::context::Context;
use crate::e2e::mounts::{Loop, Mount, NbdFuse};
use crate::e2e::spec::Spec;
use crate::error::{During, Result, ensure};
use crate::process::Tool;

/// The size of the image and of the volume.
const IMAGE_BYTES: u64 = 512 << 20;
const COPY_LIMIT: Duration = Duration::from_secs(180);

/// A random image in and out again.
pub(super) fn image(ctx: &Context) -> Result<()> {
    let mut cluster = Cluster::with_volume(ctx, Spec::dirs(ctx, 3))?;
    let (source, back) = (ctx.path("in.img"), ctx.path("out.img"));
    ctx.step("writing a random image of 512 MiB");
    random_file(&source, IMAGE_BYTES)?;
    let uri = cluster.uri()?;
    let copied = nbdcopy(source.as_os_str(), uri.as_ref())?;
    ctx.step(format!("in over 4 connections: {:.0} MB/s", rate(copied)));
    let copied = nbdcopy(uri.as_ref(), back.as_os_str())?;
    ctx.step(format!("out over 4 connections: {:.0} MB/s", rate(copied)));
    equal_files(&source, &back)?;
    ctx.step("byte-equal");
    Tool::new("qemu-img")
        .args(["compare", "-f", "raw", "-F", "raw"])
        .arg(&source)
        .arg(&uri)
        .within(COPY_LIMIT)
        .succeed()?;
    ctx.step("qemu-img compare agrees");
    cluster.wait_level()?;
    cluster.check_alive()?;
    cluster.equal_digests().map(|_digest| ())
}

/// ext4 on the volume: made, filled, unmounted, checked, and read again through the other way in.
pub(super) fn filesystem(ctx: &Context) -> Result<()> {
    let mut cluster = Cluster::with_volume(ctx, Spec::dirs(ctx, 3))?;
    file_system_on(ctx, &cluster.uri()?)?;
    cluster.wait_level()?;
    cluster.check_alive()?;
    cluster.equal_digests().map(|_digest| ())
}

fn file_system_on(ctx: &Context, uri: &str) -> Result<()> {
    let fuse = NbdFuse::mount(ctx, uri)?;
    let disk = Loop::attach(fuse.file())?;
    ctx.step(format!("{} is {uri}", disk.device().display()));
    Tool::new("mkfs.ext4")
        .args(["-q", "-F"])
        .arg(disk.device())
        .within(COPY_LIMIT)
        .succeed()?;
    let device = disk.device().display().to_string();
    let mount = Mount::new(&[&device], &ctx.path("mnt"))?;
    ctx.step("mkfs.ext4 and mount; writing files");
    write_tree(mount.dir())?;
    mount.unmount()?;
    fsck(disk.device())?;
    ctx.step("e2fsck -fn is clean");
    disk.detach()?;
    fuse.unmount()?;

    ctx.step("attached anew: every file is there");
    let fuse = NbdFuse::mount(ctx, uri)?;
    let disk = Loop::attach(fuse.file())?;
    let device = disk.device().display().to_string();
    let mount = Mount::new(&["-o", "ro", &device], &ctx.path("mnt"))?;
    check_tree(mount.dir())?;
    mount.unmount()?;
    disk.detach()?;
    fuse.unmount()
}

fn nbdcopy(from: &std::ffi::OsStr, to: &std::ffi::OsStr) -> Result<Duration> {
    let finished = Tool::new("nbdcopy")
        .args(["--connections=4", "--flush"])
        .arg(from)
        .arg(to)
        .within(COPY_LIMIT)
        .succeed()?;
    Ok(finished.took)
}

/// Megabytes a second for one pass over the image.
fn rate(took: Duration) -> f64 {
    const MEGABYTES: f64 = 536.870_912;
    MEGABYTES / took.as_secs_f64().max(0.001)
}

fn fsck(device: &Path) -> Result<()> {
    Tool::new("e2fsck")
        .arg("-fn")
        .arg(device)
        .within(COPY_LIMIT)
        .succeed()
        .map(|_finished| ())
}

/// A file of random bytes.
pub(super) fn random_file(path: &Path, bytes: u64) -> Result<()> {
    let mut random = File::open("/dev/urandom")
        .during("opening /dev/urandom")?
        .take(bytes);
    let mut file = File::create(path).during(format!("creating {}", path.display()))?;
    std::io::copy(&mut random, &mut file).during(format!("writing {}", path.display()))?;
    file.sync_all()
        .during(format!("writing {}", path.display()))
}

fn equal_files(left: &Path, right: &Path) -> Result<()> {
    let open = |path: &Path| File::open(path).during(format!("opening {}", path.display()));
    let (mut a, mut b) = (open(left)?, open(right)?);
    let (mut block_a, mut block_b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0_u64;
    loop {
        let read = a
            .read(&mut block_a)
            .during(format!("reading {}", left.display()))?;
        if read == 0 {
            let rest = b
                .read(&mut block_b)
                .during(format!("reading {}", right.display()))?;
            ensure!(
                rest == 0,
                "{} is longer than {}",
                right.display(),
                left.display()
            );
            return Ok(());
        }
        b.read_exact(&mut block_b[..read])
            .during(format!("reading {}", right.display()))?;
        ensure!(
            block_a[..read] == block_b[..read],
            "the images differ within 1 MiB after byte {at}"
        );
        at += u64::try_from(read).expect("a read is shorter than 2^64");
    }
}

/// How many files the tree has; sizes run through 0 to 1 MiB in odd steps.
const FILES: u32 = 200;

fn content(n: u32) -> Vec<u8> {
    let length = usize::try_from(n * 7919 % (1 << 20)).expect("less than 2^20");
    // xorshift: any bytes will do as long as both sides can make them.
    let mut state = n.wrapping_mul(2_654_435_761) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()
    })
    .flatten()
    .take(length)
    .collect()
}

fn file_path(dir: &Path, n: u32) -> std::path::PathBuf {
    dir.join(format!("d{}", n % 10)).join(format!("f{n}"))
}

fn write_tree(dir: &Path) -> Result<()> {
    for n in 0..FILES {
        let path = file_path(dir, n);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).during(format!("creating {}", parent.display()))?;
        }
        let mut file = File::create(&path).during(format!("creating {}", path.display()))?;
        file.write_all(&content(n))
            .during(format!("writing {}", path.display()))?;
        // Some are made durable one by one, the rest by the unmount.
        if n % 20 == 0 {
            file.sync_all()
                .during(format!("syncing {}", path.display()))?;
        }
    }
    Ok(())
}

fn check_tree(dir: &Path) -> Result<()> {
    for n in 0..FILES {
        let path = file_path(dir, n);
        let found = std::fs::read(&path).during(format!("reading {}", path.display()))?;
        ensure!(
            found == content(n),
            "{} has other bytes than were written",
            path.display()
        );
    }
    Ok(())
}
