//! OTLP over gRPC: one call, whose message goes the same way as HTTP's.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use anyhow::{Context as _, Result};
use prost::bytes::{Buf as _, Bytes};
use tonic::{
    Request, Response, Status,
    codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder},
    server::{Grpc, NamedService, UnaryService},
    transport::server::TcpConnectInfo,
};

use super::{
    body::{self, Form, Held},
    http::{Receiver, Trouble, response},
};

const NAME: &str = "opentelemetry.proto.collector.profiles.v1development.ProfilesService";

#[derive(Clone)]
struct Service(Arc<Receiver>);

impl NamedService for Service {
    const NAME: &'static str = NAME;
}

pub async fn serve(listener: tokio::net::TcpListener, receiver: Arc<Receiver>) -> Result<()> {
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    tonic::transport::Server::builder()
        .add_service(Service(receiver))
        .serve_with_incoming_shutdown(incoming, super::end())
        .await
        .context("gRPC stopped")
}

type Future<T> = std::pin::Pin<Box<dyn std::future::Future<Output = T> + Send>>;

impl tonic::codegen::Service<axum::http::Request<tonic::body::Body>> for Service {
    type Response = axum::http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Future<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: axum::http::Request<tonic::body::Body>) -> Self::Future {
        let receiver = Arc::clone(&self.0);
        Box::pin(async move {
            if request.uri().path() != format!("/{NAME}/Export") {
                return Ok(Status::unimplemented("only Export is understood").into_http());
            }
            let (parts, body) = request.into_parts();
            let from = parts.extensions.get::<TcpConnectInfo>().and_then(|of| of.remote_addr());
            let from = from.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |from| from.ip());
            let gzip = parts.headers.get("grpc-encoding").is_some_and(|of| of == "gzip");
            // Not tonic's, which keeps all of a message, and unpacks it, before it asks anybody.
            let form = Form { gzip, framed: true };
            let held = body::read(&receiver, from, None, form, body).await;
            let export = Export(receiver, Mutex::new(Some(held)));
            // What is left to answer is a message of no bytes.
            let empty = tonic::body::Body::new(axum::body::Body::from(vec![0; 5]));
            let request = axum::http::Request::from_parts(parts, empty);
            let mut grpc = Grpc::new(Raw).accept_compressed(CompressionEncoding::Gzip);
            Ok(grpc.unary(export, request).await)
        })
    }
}

/// A message that was read already.
struct Export(Arc<Receiver>, Mutex<Option<Result<Held, Trouble>>>);

impl UnaryService<Bytes> for Export {
    type Response = Bytes;
    type Future = Future<Result<Response<Bytes>, Status>>;

    fn call(&mut self, _request: Request<Bytes>) -> Self::Future {
        let receiver = Arc::clone(&self.0);
        let held = self.1.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        Box::pin(async move {
            let taken = match held {
                Some(Ok(held)) => receiver.take(held).await,
                Some(Err(trouble)) => Err(trouble),
                None => Err(Trouble::Bad("one message is one call".to_owned())),
            };
            match taken {
                Ok(taken) => Ok(Response::new(prost::Message::encode_to_vec(&response(&taken)).into())),
                Err(Trouble::Bad(why)) => Err(Status::invalid_argument(why)),
                Err(Trouble::TooLarge(why)) => Err(Status::out_of_range(why)),
                Err(Trouble::Later(why)) => Err(Status::unavailable(why)),
                Err(Trouble::TooFast) => Err(Status::resource_exhausted("more than the quota of this address")),
            }
        })
    }
}

/// Messages as bytes: they are unpacked where they are counted first.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        prost::bytes::BufMut::put(out, item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = bytes.remaining();
        Ok(Some(bytes.copy_to_bytes(length)))
    }
}
