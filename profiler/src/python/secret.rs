//! Names that sound as if what they name should not be read by everybody.
//!
//! A dump is pasted into tickets and chats. What is found out here is a habit of naming, no more: a secret in a variable
//! called `x` is shown.

use std::borrow::Cow;

/// Parts of names that say it wherever they stand …
const PARTS: [&str; 14] = [
    "apikey",
    "authoriz",
    "cookie",
    "credential",
    "csrf",
    "passphrase",
    "passwd",
    "password",
    "privatekey",
    "secret",
    "session",
    "signature",
    "token",
    "xsrf",
];

/// … and those that say it as words of their own: `api_key`, `dbPwd`, but not `keyboard` or `author`.
const WORDS: [&str; 13] = [
    "auth", "bearer", "cred", "creds", "jwt", "key", "oauth", "otp", "pass", "pin", "pw", "pwd", "salt",
];

/// What stands for a value.
pub const MASK: &str = "<masked>";

/// Whether a variable, a key of a dict or an attribute has such a name.
pub fn is_secretive(name: &str) -> bool {
    let plain: String = name
        .chars()
        .filter(|c| c.is_alphanumeric())
        .flat_map(char::to_lowercase)
        .collect();
    PARTS.iter().any(|part| plain.contains(part)) || words(name).any(|word| WORDS.contains(&&*word))
}

/// `dbPwd2` is `db`, `pwd` and `2`.
fn words(name: &str) -> impl Iterator<Item = String> {
    let mut words: Vec<String> = vec![String::new()];
    let mut was_lower = false;
    for c in name.chars() {
        let begins = !c.is_alphabetic() || (c.is_uppercase() && was_lower);
        if begins {
            words.push(String::new());
        }
        if c.is_alphabetic()
            && let Some(word) = words.last_mut()
        {
            word.extend(c.to_lowercase());
        }
        was_lower = c.is_lowercase();
    }
    words.into_iter().filter(|word| !word.is_empty())
}

/// Text without the passwords of addresses in it: `postgres://me:<masked>@db/x`.
pub fn without_passwords(text: &str) -> Cow<'_, str> {
    const SCHEME_END: &str = "://";
    let mut clean = String::new();
    // Up to here it is in `clean`.
    let mut told = 0;
    let mut from = 0;
    while let Some(at) = text[from..].find(SCHEME_END) {
        let start = from + at + SCHEME_END.len();
        let after = &text[start..];
        // User, password and host; none of them has these.
        let end = after
            .find(['/', '?', '#', ',', ';', ' ', '"', '\''])
            .unwrap_or(after.len());
        let authority = &after[..end];
        let password = authority
            .rfind('@')
            .and_then(|at| Some((authority[..at].find(':')? + 1, at)));
        if let Some((first, last)) = password {
            clean.push_str(&text[told..start + first]);
            clean.push_str(MASK);
            told = start + last;
        }
        from = start;
    }
    match told {
        0 => text.into(),
        _ => {
            clean.push_str(&text[told..]);
            clean.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_secrets_are_known_however_they_are_written() {
        for name in [
            "password",
            "db_password",
            "PASSWORD_2",
            "dbPwd",
            "api_key",
            "API-KEY",
            "apiKey",
            "key",
            "Authorization",
            "auth",
            "access_token",
            "accessToken",
            "sessionid",
            "set-cookie",
            "client_secret",
            "X-CSRF-Token",
            "jwt",
        ] {
            assert!(is_secretive(name), "{name}");
        }
        for name in [
            "keyboard",
            "monkey",
            "author",
            "keys",
            "passenger",
            "compass",
            "spinner",
            "name",
            "",
            "x1",
        ] {
            assert!(!is_secretive(name), "{name}");
        }
    }

    #[test]
    fn addresses_lose_their_passwords() {
        for (text, expected) in [
            ("postgres://me:hunter2@db:5432/x", "postgres://me:<masked>@db:5432/x"),
            ("a http://x/y redis://:pw@h b", "a http://x/y redis://:<masked>@h b"),
            ("amqp://a:b@c,amqp://d:e@f", "amqp://a:<masked>@c,amqp://d:<masked>@f"),
            ("http://host:80/a@b", "http://host:80/a@b"),
            ("no address", "no address"),
        ] {
            assert_eq!(without_passwords(text), expected);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in ".*", odd in "([a:/@]|://|é){0,30}") {
            for text in [text, odd] {
                without_passwords(&text);
                is_secretive(&text);
            }
        }
    }
}
