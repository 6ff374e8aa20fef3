//! What `bench serve` measures the host beside: parses V2's JSON into numbers and says how many there were, until
//! standard input is closed.

use axum::routing::post;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct Infer {
    inputs: Vec<Input>,
}

#[derive(Deserialize)]
struct Input {
    data: Vec<f32>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let count = async |Json(infer): Json<Infer>| {
        let count: usize = infer.inputs.iter().map(|input| input.data.len()).sum();
        Json(json!({ "numbers": count }))
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let serving = axum::serve(listener, Router::new().route("/", post(count)));
    let parent_gone = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
    tokio::select! {
        served = serving => Ok(served?),
        _ = parent_gone => Ok(()),
    }
}
