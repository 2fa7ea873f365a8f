//! The kernels to boot: Debian's cloud images, the newest of a series that Debian has today.
//!
//! The cloud flavour has everything needed built in (BTF, probes, a serial console) and is the smallest. Versions leave
//! Debian's pool within weeks, so none is named here: a series is looked for in the lists of several releases.

use std::cmp::Reverse;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::debs::{self, Debs, Package};

/// What is booted unless something else is asked for: Debian 11, 12, 13 and sid.
pub const MATRIX: [&str; 4] = ["5.10", "6.1", "6.12", "7.2"];

/// What the profiler refuses on a series, in its own words: a series, and the name of a run in `job.sh`.
///
/// `--cgroup`: tracing programs may call `bpf_get_current_ancestor_cgroup_id` from 5.14 on (commit 95b861a7935b).
/// `waits` and `why`: they read the registers of tasks, to which there is a typed pointer from 5.15 on.
/// `--exact`, `calls` and `exceptions` (with `gc` and `imports`, which have the same programs): what a probe is about is told by its cookie, which probes have from 5.15 on (commit 7adfc6c9b315).
const REFUSED: [(&str, &str); 6] = [
    ("5.10", "load-cgroup"),
    ("5.10", "load-exact"),
    ("5.10", "load-calls"),
    ("5.10", "load-marks"),
    ("5.10", "load-why"),
    ("5.10", "waits"),
];

/// The runs that the profiler is to refuse on a series. Whatever else it is asked has to work.
pub fn refused(series: &str) -> Vec<&'static str> {
    let refused = REFUSED.iter().filter(|(of, _)| *of == series);
    refused.map(|(_, run)| *run).collect()
}

/// How many kernels of a series are tried.
const ATTEMPTS: usize = 3;

/// A kernel that is here.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Such as 6.1.
    pub series: String,
    /// The package's, such as 6.1.176-1.
    pub version: String,
    pub image: PathBuf,
}

/// The kernels of these series, fetched unless they are here already.
pub fn fetch(series: &[String], debs: &Debs, directory: &Path, again: bool) -> Result<Vec<Kernel>> {
    let mut kernels = Vec::new();
    for series in series {
        let place = directory.join(series);
        let kept = if again { None } else { cached(series, &place) };
        kernels.push(match kept {
            Some(kernel) => kernel,
            None => download(series, debs, &place)?,
        });
    }
    Ok(kernels)
}

fn cached(series: &str, place: &Path) -> Option<Kernel> {
    // The last thing written.
    let version = fs::read_to_string(place.join("version")).ok()?;
    Some(Kernel {
        series: series.to_owned(),
        version: version.trim().to_owned(),
        image: place.join("vmlinuz"),
    })
}

fn download(series: &str, debs: &Debs, place: &Path) -> Result<Kernel> {
    let packages = debs.packages(&["linux-binary-", "linux-image-"], "-cloud-amd64")?;
    let mut failure = None;
    // The lists name kernels that have left the pool, or are not there yet.
    for package in best_first(series, &packages).into_iter().take(ATTEMPTS) {
        match unpack(series, package, debs, place) {
            Ok(kernel) => return Ok(kernel),
            Err(error) => {
                eprintln!("xtask: {error:#}");
                failure = Some(error);
            }
        }
    }
    if let Some(error) = failure {
        return Err(error);
    }
    let mut there: Vec<(u32, u32)> = packages.iter().filter_map(of_series).collect();
    there.sort_unstable();
    there.dedup();
    let there: Vec<String> = there.iter().map(|(major, minor)| format!("{major}.{minor}")).collect();
    bail!("Debian has no kernel {series} today; it has {}", there.join(", "))
}

fn unpack(series: &str, package: &Package, debs: &Debs, place: &Path) -> Result<Kernel> {
    let unpacked = debs.unpack(package)?;
    let image = image(&unpacked)?.with_context(|| format!("{} contains no kernel", package.name))?;
    debs::remove(place)?;
    debs::make_directory(place)?;
    let kernel = Kernel {
        series: series.to_owned(),
        version: package.version.clone(),
        image: place.join("vmlinuz"),
    };
    fs::copy(&image, &kernel.image).with_context(|| format!("cannot copy {}", image.display()))?;
    debs::remove(&unpacked)?;
    let stamp = place.join("version");
    fs::write(&stamp, format!("{}\n", package.version)).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(kernel)
}

/// The kernels of a series among packages: the newest first, and those made for an older release after the others.
///
/// Since 7.1 or so the kernel itself is in `linux-binary-…`, and `linux-image-…` of the same version is an empty
/// package that depends on it.
fn best_first<'a>(series: &str, packages: &'a [Package]) -> Vec<&'a Package> {
    let wanted = numbers(series);
    let mut found: Vec<&Package> = packages
        .iter()
        // `linux-image-6.1-cloud-amd64` only depends on one that has a kernel.
        .filter(|package| of_series(package).is_some_and(|(major, minor)| wanted == [major, minor]))
        .collect();
    found.sort_by_cached_key(|package| {
        let (upstream, revision) = package.version.split_once('-').unwrap_or((&package.version, ""));
        // `6.1.180-1~deb11u1` is Debian 12's kernel, built for Debian 11.
        let is_backport = revision.contains('~');
        let is_whole = package.name.starts_with("linux-binary-");
        Reverse((!is_backport, numbers(upstream), numbers(revision), is_whole))
    });
    found
}

/// The series of a package with a kernel, from its name.
fn of_series(package: &Package) -> Option<(u32, u32)> {
    let release = ["linux-binary-", "linux-image-"]
        .iter()
        .find_map(|prefix| package.name.strip_prefix(prefix))?
        .strip_suffix("-cloud-amd64")?;
    let mut parts = release.split('.');
    let (major, minor, _patch) = (parts.next()?, parts.next()?, parts.next()?);
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The numbers that a version begins with.
fn numbers(version: &str) -> Vec<u32> {
    version
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|number| number.parse().ok())
        .collect()
}

/// The kernel in an unpacked package: `boot/vmlinuz-…`, later `usr/lib/modules/…/vmlinuz`.
fn image(directory: &Path) -> Result<Option<PathBuf>> {
    let read = || format!("cannot read {}", directory.display());
    for entry in fs::read_dir(directory).with_context(read)? {
        let entry = entry.with_context(read)?;
        let kind = entry.file_type().with_context(read)?;
        if kind.is_file() && entry.file_name().to_string_lossy().starts_with("vmlinuz") {
            return Ok(Some(entry.path()));
        }
        if kind.is_dir()
            && let Some(found) = image(&entry.path())?
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str) -> Package {
        Package {
            name: name.to_owned(),
            version: version.to_owned(),
        }
    }

    #[test]
    fn the_newest_kernel_of_a_series_is_chosen() {
        let packages = [
            package("linux-image-6.1.0-9-cloud-amd64", "6.1.99-1"),
            package("linux-image-6.1.0-50-cloud-amd64", "6.1.176-1"),
            package("linux-image-6.1.0-0.deb11.52-cloud-amd64", "6.1.180-1~deb11u1"),
            package("linux-image-6.1-cloud-amd64", "6.1.176-1"),
            package("linux-image-6.12.107+deb13-cloud-amd64", "6.12.107-1"),
            package("linux-image-7.2.13+deb14-cloud-amd64", "7.2.13-1"),
            package("linux-binary-7.2.13+deb14-cloud-amd64", "7.2.13-1"),
            package("linux-binary-unsigned-7.2.14+deb14-cloud-amd64", "7.2.14-1"),
            package("linux-binary-7.2.12+deb13-cloud-amd64", "7.2.12-1~bpo13+1"),
        ];
        let chosen = |series| best_first(series, &packages).first().map(|package| &*package.name);
        assert_eq!(chosen("6.1"), Some("linux-image-6.1.0-50-cloud-amd64"));
        assert_eq!(chosen("6.12"), Some("linux-image-6.12.107+deb13-cloud-amd64"));
        assert_eq!(chosen("7.2"), Some("linux-binary-7.2.13+deb14-cloud-amd64"));
        let names = best_first("6.1", &packages).into_iter().map(|package| &*package.name);
        assert_eq!(
            names.collect::<Vec<_>>(),
            [
                "linux-image-6.1.0-50-cloud-amd64",
                "linux-image-6.1.0-9-cloud-amd64",
                "linux-image-6.1.0-0.deb11.52-cloud-amd64"
            ]
        );
        assert_eq!(chosen("5.4"), None);
        assert_eq!(chosen(""), None);
    }

    #[test]
    fn what_is_refused_is_run() {
        for (series, run) in REFUSED {
            assert!(MATRIX.contains(&series), "{series}");
            let runs = |by: &str| include_str!("job.sh").contains(&format!("\n{by} {run} "));
            assert!(runs("record") || runs("run"), "{run}");
        }
    }
}
