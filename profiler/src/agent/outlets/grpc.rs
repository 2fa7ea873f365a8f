//! OTLP by gRPC: `ProfilesService/Export`. The only place that names tonic.

use std::{collections::BTreeMap, io::Read as _, time::Duration};

use anyhow::Context as _;
use flate2::read::GzDecoder;
use tokio::runtime::{self, Runtime};
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
    metadata::{MetadataKey, MetadataMap, MetadataValue},
    transport::{Channel, ClientTlsConfig, Endpoint},
};

use super::{
    courier::{Receiver, Refusal},
    otlp::answered,
};

const METHOD: &str = "/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export";
const MOST_TIME: Duration = Duration::from_secs(10);
/// What a message may come to when it is not compressed any more: ours are some megabytes.
const MOST_BYTES: u64 = 1 << 30;

pub struct OtlpGrpc {
    runtime: Runtime,
    client: Grpc<Channel>,
    metadata: MetadataMap,
}

impl OtlpGrpc {
    /// `url`: `grpc://collector:4317`, or `grpcs://` with TLS. Nothing is sent yet.
    pub fn new(url: &str, headers: &BTreeMap<String, String>) -> anyhow::Result<Self> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("failed to start the runtime of gRPC")?;
        let with_tls = url.strip_prefix("grpcs://");
        let address = match with_tls.or_else(|| url.strip_prefix("grpc://")) {
            Some(rest) if with_tls.is_some() => format!("https://{rest}"),
            Some(rest) => format!("http://{rest}"),
            None => url.to_owned(),
        };
        let mut endpoint = Endpoint::from_shared(address)
            .with_context(|| format!("{url} is no address to send to"))?
            .connect_timeout(MOST_TIME)
            .timeout(MOST_TIME)
            .user_agent(concat!("profiler/", env!("CARGO_PKG_VERSION")))
            .context("failed to prepare gRPC")?;
        if with_tls.is_some() {
            let tls = ClientTlsConfig::new().with_webpki_roots();
            endpoint = endpoint.tls_config(tls).context("failed to prepare TLS")?;
        }
        let mut metadata = MetadataMap::new();
        for (name, value) in headers {
            let name = MetadataKey::from_bytes(name.to_ascii_lowercase().as_bytes());
            let (Ok(name), Ok(value)) = (name, MetadataValue::try_from(value)) else {
                anyhow::bail!("a header of {url} is none that gRPC has");
            };
            metadata.insert(name, value);
        }
        // The channel connects when it is used, and again when it was cut; it is made where its runtime is.
        let channel = {
            let _inside = runtime.enter();
            endpoint.connect_lazy()
        };
        let client = Grpc::new(channel).send_compressed(CompressionEncoding::Gzip);
        Ok(Self {
            runtime,
            client,
            metadata,
        })
    }
}

impl Receiver for OtlpGrpc {
    fn deliver(&mut self, message: &[u8]) -> Result<(), Refusal> {
        let mut plain = Vec::new();
        GzDecoder::new(message)
            .take(MOST_BYTES)
            .read_to_end(&mut plain)
            .map_err(|error| Refusal::Never {
                why: format!("the message was damaged: {error}"),
            })?;
        let Self {
            runtime,
            client,
            metadata,
        } = self;
        let mut request = Request::new(plain);
        *request.metadata_mut() = metadata.clone();
        let answer = runtime.block_on(async {
            let ready = client.ready().await;
            ready.map_err(|error| Status::unavailable(in_full(&error)))?;
            client.unary(request, PathAndQuery::from_static(METHOD), Bytes).await
        });
        match answer {
            Ok(answer) => answered(&answer.into_inner()),
            Err(status) => Err(refusal(&status)),
        }
    }
}

/// Which states are worth another try is OTLP's own list (opentelemetry-proto, docs/specification.md, "Failures"), and what
/// is wrong with the password or the address: whoever mends it wants what was measured meanwhile.
fn refusal(status: &Status) -> Refusal {
    let why = format!("{:?}: {}", status.code(), super::one_line(status.message()));
    match status.code() {
        // Not for want of room, but for its size ("trying to send message larger than max"), which will not change.
        // tonic: "decoded message length too large".
        Code::ResourceExhausted | Code::OutOfRange
            if status.message().contains("larger than max") || status.message().contains("too large") =>
        {
            Refusal::Never { why }
        }
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss
        | Code::ResourceExhausted
        | Code::Unauthenticated
        | Code::PermissionDenied
        | Code::Unimplemented
        | Code::Unknown => Refusal::Later { why, after: None },
        _ => Refusal::Never { why },
    }
}

/// What went wrong, and why: the outermost error only says "transport error".
fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// Messages are bytes on both sides.
#[derive(Clone, Copy, Debug)]
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(out, &item);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut item = vec![0; bytes::Buf::remaining(from)];
        bytes::Buf::copy_to_slice(from, &mut item);
        Ok(Some(item))
    }
}
