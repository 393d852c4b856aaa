//! A throw-away API server on loopback, for kubectl and for hands: `cargo run -p kontiki-api --example
//! sandbox`.
//!
//! It says where it is and runs until it is stopped; nothing is kept.

use kontiki_api::sandbox::Sandbox;

#[tokio::main]
async fn main() {
    let sandbox = Sandbox::start().await;
    println!("kubectl --server {} get namespaces", sandbox.url());
    std::future::pending::<()>().await;
}
