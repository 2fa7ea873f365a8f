//! Which service a process belongs to: by the rules of the configuration, else by the unit of systemd that it is in, else
//! by what it runs.

use super::file::ServiceRule;

/// What is known of a process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Who<'a> {
    /// What it runs, in a few words; may be empty.
    pub command: &'a str,
    /// The name of its main thread.
    pub executable: &'a str,
    /// The path of its cgroup; may be empty.
    pub cgroup: &'a str,
    /// The id or name of its container; may be empty.
    pub container: &'a str,
}

/// Longer names are cut: they are labels, and every series has them.
const MOST_CHARACTERS: usize = 128;

const UNNAMED: &str = "[processes without a name]";

pub fn name(rules: &[ServiceRule], who: Who<'_>) -> String {
    let named = (rules.iter()).find(|rule| rule.fits(who)).map(|rule| rule.name.clone());
    let name = named.or_else(|| unit(who.cgroup)).unwrap_or_else(|| {
        match (who.command, who.executable) {
            // It was gone before anybody could ask.
            ("", "") => UNNAMED,
            ("", executable) => executable,
            (command, _) => command,
        }
        .to_owned()
    });
    name.chars().take(MOST_CHARACTERS).collect()
}

impl ServiceRule {
    fn fits(&self, who: Who<'_>) -> bool {
        let Self {
            name: _,
            command,
            cgroup,
            container,
            executable,
        } = self;
        [
            (command, who.command),
            (cgroup, who.cgroup),
            (container, who.container),
            (executable, who.executable),
        ]
        .into_iter()
        .all(|(wanted, is)| wanted.as_deref().is_none_or(|wanted| matches(wanted, is)))
    }
}

/// Whether all of `text` is what `pattern` says, in which `*` stands for anything. Takes time in proportion to both.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    // The earliest place leaves most to those that follow.
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// `nginx` of `/system.slice/nginx.service`, which is one on whatever host it runs. What a person runs in a session is
/// no service.
fn unit(cgroup: &str) -> Option<String> {
    let innermost = cgroup.rsplit('/').find_map(|part| part.strip_suffix(".service"))?;
    // The manager of a person's units, and what it starts without a unit of its own.
    let is_manager = innermost.starts_with("user@") || innermost == "init";
    (!is_manager && !innermost.is_empty()).then(|| unescaped(innermost))
}

/// systemd writes what a name may not have as `\x2d` (systemd-escape(1)).
fn unescaped(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find("\\x") {
        out.push_str(&rest[..at]);
        let code = rest
            .get(at + 2..at + 4)
            .and_then(|code| u8::from_str_radix(code, 16).ok());
        match code.filter(u8::is_ascii_graphic) {
            Some(byte) => {
                out.push(char::from(byte));
                rest = &rest[at + 4..];
            }
            None => {
                out.push_str("\\x");
                rest = &rest[at + 2..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// The pod of Kubernetes that a cgroup is of, by its number: `kubepods-burstable-pod0123….slice` (systemd's way, in which
/// `_` stands for `-`), `/kubepods/burstable/pod0123…`.
pub fn pod(cgroup: &str) -> Option<String> {
    if !cgroup.contains("kubepods") {
        return None;
    }
    cgroup.split('/').find_map(|part| {
        let part = part.strip_suffix(".slice").unwrap_or(part);
        let (_, uid) = part
            .rsplit_once("pod")
            .filter(|(before, _)| before.is_empty() || before.ends_with('-'))?;
        let uid = uid.replace('_', "-");
        let is_uid = uid.len() == 36 && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        is_uid.then_some(uid)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who<'a>(command: &'a str, cgroup: &'a str) -> Who<'a> {
        Who {
            command,
            cgroup,
            executable: "python3",
            container: "",
        }
    }

    #[test]
    fn a_service_is_what_a_rule_says_else_its_unit_else_what_it_runs() {
        let rules = [
            ServiceRule {
                name: "shop".to_owned(),
                command: Some("gunicorn shop*".to_owned()),
                ..ServiceRule::default()
            },
            ServiceRule {
                name: "jobs".to_owned(),
                command: Some("celery*".to_owned()),
                cgroup: Some("*/jobs.slice/*".to_owned()),
                ..ServiceRule::default()
            },
        ];
        for (command, cgroup, expected) in [
            ("gunicorn shop.wsgi", "/system.slice/web.service", "shop"),
            ("celery -A jobs", "/jobs.slice/celery.service", "jobs"),
            // Both must fit.
            ("celery -A jobs", "/system.slice/celery.service", "celery"),
            ("uvicorn app:app", "/system.slice/my\\x2dapi.service", "my-api"),
            (
                "uvicorn app:app",
                "/user.slice/user-0.slice/user@0.service/app.slice",
                "uvicorn app:app",
            ),
            (
                "uvicorn app:app",
                "/user.slice/user-0.slice/session-3.scope",
                "uvicorn app:app",
            ),
            ("", "/", "python3"),
            ("x", "/system.slice/.service", "x"),
        ] {
            assert_eq!(name(&rules, who(command, cgroup)), expected, "{command} in {cgroup}");
        }
        assert_eq!(name(&[], who(&"x".repeat(1000), "")).len(), MOST_CHARACTERS);
    }

    #[test]
    fn a_star_stands_for_anything_and_nothing_else_does() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "x", false),
            ("*", "", true),
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("a*c", "acb", false),
            ("*a*a*", "aa", true),
            ("*a*a*", "a", false),
            ("ab*ba", "aba", false),
            ("a.c", "abc", false),
            ("*é*", "café au lait", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_pod_has_its_number_in_its_cgroup() {
        let uid = "2f1c9d3a-8e1b-4c55-9a0a-6a4f2f0f1b7e";
        let underscored = uid.replace('-', "_");
        for cgroup in [
            format!("/kubepods/burstable/pod{uid}/{}", "0".repeat(64)),
            format!("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{underscored}.slice/x.scope"),
        ] {
            assert_eq!(pod(&cgroup).as_deref(), Some(uid), "{cgroup}");
        }
        for cgroup in ["/", "/kubepods/burstable/podcast", "/system.slice/tripod.service"] {
            assert_eq!(pod(cgroup), None, "{cgroup}");
        }
    }
}
