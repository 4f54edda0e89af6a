use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;
use crate::inbox::{Inbox, inbox};

fn report() -> NodeReport {
    NodeReport {
        registered: true,
        stores_opening: 1,
        volumes: Vec::new(),
    }
}

/// Sends one request and gives back all that comes.
async fn ask(request: &str) -> String {
    let (teller, mut inbox): (Teller, Inbox) = inbox();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(serve(listener, "s1".parse().unwrap(), teller));
    let driver = tokio::spawn(async move {
        while let Some(news) = inbox.recv().await {
            if let News::Scraped(ask) = news {
                ask.send(report()).unwrap();
            }
        }
    });
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    serving.abort();
    driver.abort();
    answer
}

fn block_on(future: impl Future<Output = String>) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(future)
}

#[test]
fn a_scrape_shows_the_node() {
    let answer = block_on(ask("GET /metrics HTTP/1.1\r\nHost: s1\r\n\r\n"));
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("text/plain; version=0.0.4"), "{answer}");
    assert!(answer.contains("# TYPE moorline_stores_opening gauge\n"));
    assert!(answer.contains("moorline_stores_opening{server=\"s1\"} 1\n"));
    assert!(answer.contains("moorline_master_connected{server=\"s1\"} 1\n"));
}

#[test]
fn other_paths_and_methods_are_refused() {
    let other = block_on(ask("GET / HTTP/1.1\r\nHost: s1\r\n\r\n"));
    assert!(other.starts_with("HTTP/1.1 404 "), "{other}");
    let post = block_on(ask("POST /metrics HTTP/1.1\r\nHost: s1\r\n\r\n"));
    assert!(post.starts_with("HTTP/1.1 405 "), "{post}");
}

#[test]
fn labels_are_escaped() {
    assert_eq!(escaped("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
}
