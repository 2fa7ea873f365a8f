//! `ingest`: messages of many agents become few sets.
//!
//! A message is answered when its set is on disk: what was answered is not lost, and what was not is sent again. Messages
//! wait together for at most `--every`, and share files. What waits is bounded (`batch`), what one address sends as well
//! (`quota`); who is refused is told why, and whether to come again.

mod batch;
mod body;
mod grpc;
mod http;
mod metrics;
mod quota;

use std::sync::Arc;

use anyhow::{Context as _, Result};
use profiler_parquet::Store;

use crate::cli::Ingest;

pub async fn run(options: &Ingest) -> Result<()> {
    let store = Store::open(&options.store)?;
    // Of an earlier run that crashed. If it cannot be swept, that is `compact`'s to say.
    let _ = store.sweep();
    let http = tokio::net::TcpListener::bind(options.listen).await;
    let http = http.with_context(|| format!("cannot listen on {}", options.listen))?;
    eprintln!(
        "profiler-store: OTLP over HTTP at http://{}/v1development/profiles",
        http.local_addr()?
    );
    let metrics = Arc::new(metrics::Metrics::default());
    let (batches, writer) = batch::begin(store, options, Arc::clone(&metrics))?;
    let receiver = Arc::new(http::Receiver {
        batches,
        quota: quota::Quota::new(options.quota),
        metrics,
        most: batch::most_of_a_message(options),
    });
    let over_grpc = match options.grpc {
        Some(address) => {
            let listener = tokio::net::TcpListener::bind(address).await;
            let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
            eprintln!("profiler-store: OTLP over gRPC at {}", listener.local_addr()?);
            Some(tokio::spawn(grpc::serve(listener, Arc::clone(&receiver))))
        }
        None => None,
    };
    http::serve(http, receiver).await?;
    if let Some(over_grpc) = over_grpc {
        over_grpc.await.context("gRPC stopped")??;
    }
    // Who waits is answered: what came is written before the end.
    writer.await.context("the writer stopped")
}

/// Until the program shall end: Ctrl-C, or a service manager's SIGTERM.
async fn end() {
    let interrupt = tokio::signal::ctrl_c();
    let Ok(mut terminate) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) else {
        _ = interrupt.await;
        return;
    };
    tokio::select! {
        _ = interrupt => {}
        _ = terminate.recv() => {}
    }
}
