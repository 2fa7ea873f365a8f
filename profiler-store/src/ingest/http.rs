//! OTLP over HTTP: `POST /v1development/profiles`, protobuf, with or without gzip; and `/metrics`.

use std::{
    io::Read as _,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{ConnectInfo, DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode, header},
    response::Response,
    routing::{get, post},
};
use flate2::read::GzDecoder;
use profiler_otlp::{ExportProfilesServiceResponse, PartialSuccess};
use profiler_parquet::Taken;
use prost::Message as _;

use super::{
    batch::{Batches, Became},
    metrics::Metrics,
    quota::Quota,
};

/// What takes messages, however they come.
pub struct Receiver {
    pub batches: Batches,
    pub quota: Quota,
    pub metrics: Arc<Metrics>,
    /// Bytes of a message, unpacked.
    pub most: usize,
}

/// Why a message was not taken.
pub enum Trouble {
    /// The sender's fault: it shall not come again with it.
    Bad(String),
    /// It shall come later.
    Later(String),
    TooFast,
}

impl Receiver {
    /// Takes one unpacked message.
    pub async fn take(&self, from: IpAddr, bytes: Vec<u8>) -> Result<Taken, Trouble> {
        if !self.quota.allows(from, bytes.len()) {
            Metrics::add(&self.metrics.too_fast, 1);
            return Err(Trouble::TooFast);
        }
        match self.batches.send(bytes).await {
            Some(Became::Stored(taken)) => Ok(taken),
            Some(Became::Refused(why)) => Err(Trouble::Bad(why)),
            Some(Became::Failed(why)) => Err(Trouble::Later(why)),
            None => {
                Metrics::add(&self.metrics.no_room, 1);
                Err(Trouble::Later("no memory for more messages".to_owned()))
            }
        }
    }
}

/// What the sender is told of a message that was taken: also what of it was not.
pub fn response(taken: &Taken) -> ExportProfilesServiceResponse {
    let lost: Vec<String> = (taken.lost.counts().iter())
        .filter(|(_, count)| *count > 0)
        .map(|(what, count)| format!("{what}: {count}"))
        .collect();
    ExportProfilesServiceResponse {
        partial_success: (!lost.is_empty()).then(|| PartialSuccess {
            rejected_profiles: i64::try_from(taken.lost.profiles).unwrap_or(i64::MAX),
            error_message: format!("left out or cut: {}", lost.join(", ")),
        }),
    }
}

pub async fn serve(listener: tokio::net::TcpListener, receiver: Arc<Receiver>) -> Result<()> {
    let most = receiver.most;
    let router = Router::new()
        .route("/v1development/profiles", post(export))
        .route("/metrics", get(metrics))
        .layer(DefaultBodyLimit::max(most))
        .with_state(receiver);
    axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>())
        .with_graceful_shutdown(super::end())
        .await
        .context("HTTP stopped")
}

async fn metrics(State(receiver): State<Arc<Receiver>>) -> String {
    receiver.metrics.text()
}

async fn export(
    State(receiver): State<Arc<Receiver>>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let header = |name| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    let kind = header(header::CONTENT_TYPE)
        .split(';')
        .next()
        .unwrap_or_default()
        .trim();
    if !matches!(kind, "application/x-protobuf" | "application/protobuf") {
        let why = "only application/x-protobuf is understood";
        return answer(StatusCode::UNSUPPORTED_MEDIA_TYPE, why.into());
    }
    let bytes = match header(header::CONTENT_ENCODING).trim() {
        "" | "identity" => body.to_vec(),
        "gzip" => match unpacked(&body, receiver.most) {
            Ok(bytes) => bytes,
            Err(why) => return answer(StatusCode::BAD_REQUEST, why.into()),
        },
        _ => return answer(StatusCode::UNSUPPORTED_MEDIA_TYPE, "only gzip is understood".into()),
    };
    match receiver.take(from.ip(), bytes).await {
        Ok(taken) => {
            let mut response = Response::new(Body::from(self::response(&taken).encode_to_vec()));
            let kind = header::HeaderValue::from_static("application/x-protobuf");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        Err(Trouble::Bad(why)) => answer(StatusCode::BAD_REQUEST, why),
        Err(Trouble::Later(why)) => later(answer(StatusCode::SERVICE_UNAVAILABLE, why)),
        Err(Trouble::TooFast) => later(answer(
            StatusCode::TOO_MANY_REQUESTS,
            "more than the quota of this address".into(),
        )),
    }
}

/// At most so many bytes of what is packed: a few can become very many.
fn unpacked(packed: &[u8], most: usize) -> Result<Vec<u8>, &'static str> {
    let mut bytes = Vec::new();
    let read = GzDecoder::new(packed).take(most as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|_| "the body is not gzip")?;
    match bytes.len() > most {
        true => Err("the message is too large"),
        false => Ok(bytes),
    }
}

fn answer(status: StatusCode, why: String) -> Response {
    let mut response = Response::new(Body::from(why));
    *response.status_mut() = status;
    response
}

fn later(mut response: Response) -> Response {
    let seconds = header::HeaderValue::from_static("5");
    response.headers_mut().insert(header::RETRY_AFTER, seconds);
    response
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_bomb_is_unpacked_only_so_far() {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        packed.write_all(&vec![0; 10 << 20]).unwrap();
        let packed = packed.finish().unwrap();
        assert!(packed.len() < 20_000);
        assert_eq!(unpacked(&packed, 1 << 20), Err("the message is too large"));
        assert_eq!(unpacked(&packed, 10 << 20).unwrap().len(), 10 << 20);
        assert_eq!(unpacked(b"no", 100), Err("the body is not gzip"));
    }
}
