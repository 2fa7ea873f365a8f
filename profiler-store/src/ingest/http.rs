//! OTLP over HTTP: `POST /v1development/profiles`, protobuf, with or without gzip; and `/metrics`.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context as _, Result};
use axum::{
    Router,
    body::{Body, HttpBody as _},
    extract::{ConnectInfo, State},
    http::{HeaderMap, StatusCode, header},
    response::Response,
    routing::{get, post},
};
use profiler_otlp::{ExportProfilesServiceResponse, PartialSuccess};
use profiler_parquet::Taken;
use prost::Message as _;

use super::{
    batch::{Batches, Became},
    body::{self, Form, Held},
    metrics::Metrics,
    quota::{self, Quota},
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
    /// It shall come in parts.
    TooLarge(String),
    /// It shall come later.
    Later(String),
    TooFast,
}

impl Receiver {
    /// Takes one message.
    pub async fn take(&self, held: Held) -> Result<Taken, Trouble> {
        match self.batches.send(held).await {
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
    let router = Router::new()
        .route("/v1development/profiles", post(export))
        .route("/metrics", get(metrics))
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
    body: Body,
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
    let gzip = match header(header::CONTENT_ENCODING).trim() {
        "" | "identity" => false,
        "gzip" => true,
        _ => return answer(StatusCode::UNSUPPORTED_MEDIA_TYPE, "only gzip is understood".into()),
    };
    let form = Form { gzip, framed: false };
    let announced = body.size_hint().lower();
    let taken = match body::read(&receiver, from.ip(), Some(announced), form, body).await {
        Ok(held) => receiver.take(held).await,
        Err(trouble) => Err(trouble),
    };
    match taken {
        Ok(taken) => {
            let mut response = Response::new(Body::from(self::response(&taken).encode_to_vec()));
            let kind = header::HeaderValue::from_static("application/x-protobuf");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        Err(Trouble::Bad(why)) => answer(StatusCode::BAD_REQUEST, why),
        Err(Trouble::TooLarge(why)) => answer(StatusCode::PAYLOAD_TOO_LARGE, why),
        Err(Trouble::Later(why)) => later(answer(StatusCode::SERVICE_UNAVAILABLE, why), 5),
        // By then it is whole again, and any message that can ever come can.
        Err(Trouble::TooFast) => later(
            answer(
                StatusCode::TOO_MANY_REQUESTS,
                "more than the quota of this address".into(),
            ),
            quota::SECONDS as u16,
        ),
    }
}

fn answer(status: StatusCode, why: String) -> Response {
    let mut response = Response::new(Body::from(why));
    *response.status_mut() = status;
    response
}

fn later(mut response: Response, seconds: u16) -> Response {
    let seconds = header::HeaderValue::from(seconds);
    response.headers_mut().insert(header::RETRY_AFTER, seconds);
    response
}
