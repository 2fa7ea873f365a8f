//! Sending a message by HTTP. The only place that names ureq.

use std::{collections::BTreeMap, time::Duration};

use ureq::{Agent, config::Config, http::StatusCode};

use super::courier::Refusal;

/// From the first look for the address to the end of the answer. Short enough that an agent ends when it is told to.
const MOST_TIME: Duration = Duration::from_secs(10);
/// Of an answer, what is read and shown.
const MOST_ANSWER_BYTES: u64 = 64 << 10;
const MOST_SHOWN: usize = 200;

/// Posts messages of one kind to one address.
pub struct Poster {
    agent: Agent,
    url: String,
    headers: Vec<(String, String)>,
}

impl Poster {
    /// `headers`: of each request; those of the configuration go before ours.
    pub fn new(url: String, ours: &[(&str, &str)], theirs: &BTreeMap<String, String>) -> Self {
        let config = Config::builder()
            .timeout_global(Some(MOST_TIME))
            // An answer that says no is an answer.
            .http_status_as_error(false)
            // A message must not go elsewhere than was configured.
            .max_redirects(0)
            .user_agent(concat!("profiler/", env!("CARGO_PKG_VERSION")))
            .build();
        let replaced = |name: &str| theirs.keys().any(|key| key.eq_ignore_ascii_case(name));
        let headers = (ours.iter().filter(|(name, _)| !replaced(name)))
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .chain(theirs.iter().map(|(name, value)| (name.clone(), value.clone())))
            .collect();
        Self {
            agent: Agent::new_with_config(config),
            url,
            headers,
        }
    }

    /// The answer's body, where it was taken.
    pub fn post(&self, body: &[u8]) -> Result<Vec<u8>, Refusal> {
        let later = |why: String| Refusal::Later { why, after: None };
        let mut request = self.agent.post(&self.url);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let mut answer = request.send(body).map_err(|error| match error {
            ureq::Error::Http(error) => Refusal::Never {
                why: format!("the request cannot be made: {error}; look at the headers of the configuration"),
            },
            error => later(error.to_string()),
        })?;
        let status = answer.status();
        let after = answer
            .headers()
            .get("retry-after")
            .and_then(|value| value.to_str().ok()?.trim().parse().ok())
            .map(Duration::from_secs);
        let text = answer.body_mut().with_config().limit(MOST_ANSWER_BYTES).read_to_vec();
        if status.is_success() {
            // What a receiver says beside "yes" is worth nothing when it breaks off.
            return Ok(text.unwrap_or_default());
        }
        let why = format!("{status}: {}", shown(&text.unwrap_or_default()));
        Err(match is_passing(status) {
            true => Refusal::Later { why, after },
            false => Refusal::Never { why },
        })
    }
}

/// Whether the same message may be taken later. What is wrong with the address or the password is, too: whoever mends it
/// wants what was measured meanwhile.
fn is_passing(status: StatusCode) -> bool {
    status.is_server_error()
        || status.is_redirection()
        || matches!(
            status,
            StatusCode::UNAUTHORIZED
                | StatusCode::FORBIDDEN
                | StatusCode::NOT_FOUND
                | StatusCode::PROXY_AUTHENTICATION_REQUIRED
                | StatusCode::REQUEST_TIMEOUT
                | StatusCode::TOO_EARLY
                | StatusCode::TOO_MANY_REQUESTS
        )
}

/// A stranger's words, in one line.
fn shown(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MOST_SHOWN)
        .collect();
    line.trim().to_owned()
}
