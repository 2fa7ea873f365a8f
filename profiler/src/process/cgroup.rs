//! Which cgroup a process is in, and which container that is: what `/proc/PID/cgroup` says.
//!
//! The kernel knows no containers. Their managers name cgroups after them, each in its own way, so the id is read from
//! the path. A name that none of them would give is no container.

use std::{fs::File, io::Read as _};

/// Where a process is accounted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cgroup {
    /// From the root of our cgroup namespace: `/system.slice/nginx.service`. Starts with `/..` if the process is
    /// outside.
    pub path: String,
    /// The id or the name its manager knows it by: 64 hexadecimal digits for Docker, Podman and Kubernetes.
    pub container: Option<String>,
}

impl Cgroup {
    /// The cgroup of a process; `None` if it is gone or the kernel has no cgroups.
    pub fn of(pid: u32) -> Option<Self> {
        /// Ten lines or so; a path has at most 4096 bytes (`proc_cgroup_show`, kernel/cgroup/cgroup.c).
        const MOST_BYTES: u64 = 256 << 10;

        let file = File::open(format!("/proc/{pid}/cgroup")).ok()?;
        let mut bytes = Vec::new();
        // A process that ends meanwhile gives ESRCH and what was read before.
        let _ = file.take(MOST_BYTES).read_to_end(&mut bytes);
        Self::parse(&bytes)
    }

    /// Reads the text of a cgroup file. Lines that are none are left out.
    ///
    /// A process is in one cgroup of the unified hierarchy (v2) and in one of each other (v1). On a hybrid system all
    /// these can differ: one that names a container is meant, then v2, then systemd's, then any that is not the root.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut lines: Vec<Line> = bytes.split(|&byte| byte == b'\n').filter_map(Line::parse).collect();
        lines.sort_by_key(Line::rank);
        let named = lines.iter().find_map(|line| Some((line, container(&line.path)?)));
        let (path, container) = match named {
            Some((line, container)) => (line.path.clone(), Some(container)),
            None => (lines.into_iter().next()?.path, None),
        };
        Some(Self { path, container })
    }
}

/// `4:memory:/docker/01…`, `1:name=systemd:/`, `0::/user.slice`.
struct Line {
    controllers: String,
    path: String,
}

impl Line {
    fn parse(line: &[u8]) -> Option<Self> {
        let line = String::from_utf8_lossy(line);
        let (hierarchy, rest) = line.split_once(':')?;
        // A path can hold colons, the fields before it cannot.
        let (controllers, path) = rest.split_once(':')?;
        if hierarchy.is_empty() || !hierarchy.bytes().all(|byte| byte.is_ascii_digit()) || !path.starts_with('/') {
            return None;
        }
        // v2 only, since 4.2: the cgroup was removed, and its processes have not noticed that they are dead.
        let path = path.strip_suffix(" (deleted)").unwrap_or(path);
        Some(Self {
            controllers: controllers.to_owned(),
            path: path.to_owned(),
        })
    }

    /// Lower is more telling.
    fn rank(&self) -> u8 {
        match (&*self.path, &*self.controllers) {
            ("/", _) => 3,
            (_, "") => 0,
            (_, "name=systemd") => 1,
            _ => 2,
        }
    }
}

/// The container a cgroup belongs to: the innermost, for a container can run containers.
fn container(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    (0..parts.len()).rev().find_map(|at| {
        let above = at.checked_sub(1).map_or("", |above| parts[above]);
        named_by_id(parts[at]).or_else(|| named_by_name(parts[at], above))
    })
}

/// Managers that give ids, with cgroups of their own (`ID`) or through systemd (`MANAGER-ID.scope`):
///
/// - Docker: `/docker/ID`, `/system.slice/docker-ID.scope`
/// - Kubernetes: `/kubepods/burstable/podUID/ID`, `/kubepods.slice/…/cri-containerd-ID.scope`, `…/crio-ID.scope`,
///   `/…/kubepods-burstable-podUID.slice:cri-containerd:ID`
/// - Podman: `…/libpod-ID.scope`, with `/container` below it
/// - ECS: `/ecs/TASK/ID`, and on Fargate `/ecs/TASK/TASK-NUMBER`
fn named_by_id(part: &str) -> Option<String> {
    let is_hex = |text: &str, length| text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let part = part.strip_suffix(".scope").unwrap_or(part);
    if let Some((task, number)) = part.split_once('-')
        && is_hex(task, 32)
        && !number.is_empty()
        && number.bytes().all(|byte| byte.is_ascii_digit())
    {
        return Some(part.to_owned());
    }
    let (manager, id) = part.rsplit_once(['-', ':']).unwrap_or(("", part));
    // conmon watches a container from outside: `libpod-conmon-ID.scope`, `crio-conmon-ID.scope`.
    (is_hex(id, 64) && !manager.ends_with("conmon")).then(|| id.to_owned())
}

/// Managers that give names.
///
/// - LXC and Incus: `/lxc.payload.NAME` (4.0 on), `/lxc/NAME`; `lxc.monitor.NAME` is outside
/// - systemd-nspawn: `/machine.slice/machine-NAME.scope`, `/machine.slice/systemd-nspawn@NAME.service`
///
/// Virtual machines of libvirt are in `machine.slice` as well (`machine-qemu\x2d1\x2dNAME.scope`), and are none.
fn named_by_name(part: &str, above: &str) -> Option<String> {
    let within = |start: &str, end: &str| part.strip_prefix(start)?.strip_suffix(end);
    let name = if let Some(name) = part.strip_prefix("lxc.payload.") {
        name.to_owned()
    } else if above == "lxc" {
        part.to_owned()
    } else if above == "machine.slice"
        && let Some(name) = within("machine-", ".scope").or_else(|| within("systemd-nspawn@", ".service"))
        && !name.starts_with(r"qemu\x2d")
    {
        unescape(name)
    } else {
        return None;
    };
    (!name.is_empty()).then_some(name)
}

/// Undoes systemd's escaping of what a unit's name may not hold: `\x2d` is `-`.
fn unescape(name: &str) -> String {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = rest
            .strip_prefix(br"\x")
            .and_then(|after| Some((after.get(..2)?, after.get(2..)?)))
            .filter(|(digits, _)| digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|(digits, tail)| Some((u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?, tail)));
        let (byte, tail) = escaped.unwrap_or((byte, tail));
        bytes.push(byte);
        rest = tail;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "3c2f1a0b9d8e7f6a5b4c3d2e1f0a9b8c7d6e5f4a3b2c1d0e9f8a7b6c5d4e3f2a";
    const POD: &str = "pod1b2c3d4e_0f1a_4b2c_8d3e_4f5a6b7c8d9e";

    fn only(path: &str) -> Option<String> {
        let cgroup = Cgroup::parse(format!("0::{path}\n").as_bytes()).expect("a cgroup");
        assert_eq!(cgroup.path, path);
        cgroup.container
    }

    #[test]
    fn every_managers_way_to_write_an_id_is_known() {
        for path in [
            format!("/docker/{ID}"),
            format!("/system.slice/docker-{ID}.scope"),
            format!("/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{ID}.scope/init"),
            format!("/kubepods/besteffort/{POD}/{ID}"),
            format!(
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-{POD}.slice/cri-containerd-{ID}.scope"
            ),
            format!("/kubepods.slice/kubepods-{POD}.slice/crio-{ID}.scope"),
            format!("/kubepods.slice/kubepods-{POD}.slice/crio-{ID}.scope/container"),
            format!("/system.slice/containerd.service/kubepods-burstable-{POD}.slice:cri-containerd:{ID}"),
            format!("/machine.slice/libpod-{ID}.scope/container"),
            format!("/user.slice/user-0.slice/session-1.scope/libpod_parent/libpod-{ID}"),
            format!("/ecs/0f1e2d3c4b5a69788796a5b4c3d2e1f0/{ID}"),
            format!("/../../docker-{ID}.scope"),
        ] {
            assert_eq!(only(&path).as_deref(), Some(ID), "{path}");
        }
        let fargate = "0f1e2d3c4b5a69788796a5b4c3d2e1f0-1234567890";
        assert_eq!(
            only(&format!("/ecs/0f1e2d3c4b5a69788796a5b4c3d2e1f0/{fargate}")).as_deref(),
            Some(fargate)
        );
    }

    #[test]
    fn containers_with_names_have_them() {
        for (path, name) in [
            ("/lxc.payload.web-1/system.slice/nginx.service", "web-1"),
            ("/lxc/web/init.scope", "web"),
            (r"/machine.slice/machine-my\x2dbox.scope/payload/init.scope", "my-box"),
            ("/machine.slice/systemd-nspawn@box.service/payload", "box"),
        ] {
            assert_eq!(only(path).as_deref(), Some(name), "{path}");
        }
    }

    #[test]
    fn what_is_no_container_has_no_id() {
        for path in [
            "/",
            "/user.slice/user-1000.slice/session-3.scope",
            "/system.slice/docker.service",
            "/lxc.monitor.web",
            "/lxc",
            r"/machine.slice/machine-qemu\x2d1\x2dwin.scope/libvirt",
            "/machine.slice/machine-.scope",
            &format!("/machine.slice/libpod-conmon-{ID}.scope"),
            &format!("/system.slice/crio-conmon-{ID}.scope"),
            &format!("/system.slice/{}.scope", &ID[1..]),
            &format!("/kubepods/burstable/{POD}"),
        ] {
            assert_eq!(only(path), None, "{path}");
        }
    }

    #[test]
    fn of_nested_containers_the_innermost_is_meant() {
        let outer = "a".repeat(64);
        let path = format!("/docker/{outer}/kubelet.slice/kubelet-kubepods.slice/cri-containerd-{ID}.scope");
        assert_eq!(only(&path).as_deref(), Some(ID));
    }

    #[test]
    fn of_several_hierarchies_the_most_telling_is_taken() {
        let parse = |text: &str| Cgroup::parse(text.as_bytes()).expect("a cgroup");
        // Hybrid, as systemd mounts it.
        let hybrid = parse("4:memory:/a\n1:name=systemd:/user.slice/b\n0::/user.slice/c\n");
        assert_eq!(hybrid.path, "/user.slice/c");
        // Hybrid without systemd: v2 is there and nobody uses it.
        assert_eq!(parse("5:devices:/\n4:memory:/jobs/7\n1:cpu:/\n0::/\n").path, "/jobs/7");
        assert_eq!(parse("4:memory:/a\n1:name=systemd:/b\n").path, "/b");
        assert_eq!(parse("1:name=systemd:/\n0::/\n").path, "/");
        let docker = parse(&format!("4:memory:/docker/{ID}\n0::/system.slice/docker.service\n"));
        assert_eq!(docker.container.as_deref(), Some(ID));
        assert_eq!(docker.path, format!("/docker/{ID}"));
    }

    #[test]
    fn a_removed_cgroup_keeps_its_name_and_a_colon_belongs_to_the_path() {
        let cgroup = Cgroup::parse(b"0::/system.slice/a:b.service (deleted)\n").expect("a cgroup");
        assert_eq!(cgroup.path, "/system.slice/a:b.service");
    }

    #[test]
    fn lines_that_are_none_are_left_out() {
        assert_eq!(Cgroup::parse(b""), None);
        assert_eq!(Cgroup::parse(b"nonsense\n::\n-1::/a\n0::relative\n"), None);
        let cgroup = Cgroup::parse(b"nonsense\n0::/a\n").expect("a cgroup");
        assert_eq!(cgroup.path, "/a");
    }

    #[test]
    fn this_process_is_in_a_cgroup() {
        if !std::path::Path::new("/proc/self/cgroup").exists() {
            eprintln!("skipped: this kernel has no cgroups");
            return;
        }
        let cgroup = Cgroup::of(std::process::id()).expect("a cgroup");
        assert!(cgroup.path.starts_with('/'), "{cgroup:?}");
        assert_eq!(Cgroup::of(u32::MAX), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            if let Some(cgroup) = Cgroup::parse(&bytes) {
                prop_assert!(cgroup.path.starts_with('/'));
                prop_assert_ne!(cgroup.container.as_deref(), Some(""));
            }
        }

        #[test]
        fn almost_lines_never_panic(
            text in concat!(
                r"([0-9]{0,2}:?(name=systemd|memory)?:?",
                r"(/(lxc|machine\.slice|docker-)?(machine-)?[0-9a-f\\x:.-]{0,70}(\.scope)?){0,4}\n){0,4}",
            ),
        ) {
            Cgroup::parse(text.as_bytes());
        }

        #[test]
        fn an_id_is_found_wherever_its_manager_put_it(
            id in "[0-9a-f]{64}",
            above in "(/[a-z.]{1,8}){0,4}",
            manager in "(docker-|crio-|cri-containerd-|libpod-|)",
            below in "(/[a-z.]{1,8}){0,2}",
        ) {
            let line = format!("0::{above}/{manager}{id}.scope{below}\n");
            let cgroup = Cgroup::parse(line.as_bytes()).expect("a cgroup");
            // `/lxc/NAME` below is a container inside this one.
            prop_assume!(!below.contains("lxc"));
            prop_assert_eq!(cgroup.container, Some(id));
        }

        #[test]
        fn escaping_is_undone(name in "\\PC{0,20}") {
            let escaped: String = name.bytes().map(|byte| format!(r"\x{byte:02x}")).collect();
            prop_assert_eq!(unescape(&escaped), name);
        }
    }
}
