//! Load for a server on this machine: what batching gains, what overload and an hour's worth of requests do to it.
//!
//! `cargo xtask bench server` builds and runs this. All figures are of one run: client and server share the machine's cores, so
//! what they say is how rows compare, not what a server of its own would do.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::http::{Method, Request};
use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

/// Errors of a tool for developers.
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[derive(Parser)]
struct Args {
    /// The program lenslet-server
    #[arg(long)]
    server: PathBuf,
    /// ONNX Runtime's library; without it the lenslet engine is measured
    #[arg(long)]
    ort_library: Option<PathBuf>,
    /// Model whose image tower is asked
    #[arg(long, default_value = "emoji-clip")]
    model: String,
    /// Folder of a model whose text tower, in fp32, is asked for short texts
    #[arg(long)]
    text_model: Option<PathBuf>,
    /// Folder of a language model, which writes on the lenslet engine, in the most exact form that it has
    #[arg(long)]
    writer: Option<PathBuf>,
    /// Seconds of each turn
    #[arg(long, default_value_t = 6.0)]
    seconds: f64,
    /// Turns of each
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of the soak, 0 for none
    #[arg(long, default_value_t = 0.0)]
    soak: f64,
    /// Requests at once of a closed loop
    #[arg(long, default_value_t = 32)]
    concurrency: usize,
    /// Milliseconds that a batch-1 answer and a batched one may take (99 of 100)
    #[arg(long, default_value_t = 2000.0)]
    bound_ms: f64,
    /// Print one JSON object instead of lines
    #[arg(long)]
    json: bool,
}

/// Tokens of a text.
const TOKENS: usize = 8;

/// What the model of texts is called.
const TEXTS: &str = "texts";

/// What the model that writes is called.
const WRITER: &str = "writer";
/// Tokens that it writes of each text at most.
const WRITTEN: usize = 64;
/// Texts at once.
const WRITERS: [usize; 3] = [1, 4, 8];

/// A server of its own process.
struct Started {
    child: Child,
    address: SocketAddr,
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Started {
    /// `batched` or one run at a time.
    fn new(args: &Args, model: &str, batched: bool) -> Outcome<Started> {
        let mut command = Command::new(&args.server);
        command.args(["--model", model, "--listen", "127.0.0.1:0", "--device", "cpu", "--cache-bytes", "0"]);
        command.args(["--max-queue", "64"]);
        if !batched {
            // A batch of texts may cost as much as one of them does.
            command.args(["--max-batch-images", "1", "--max-batch-tokens", &TOKENS.to_string()]);
        }
        match &args.ort_library {
            Some(library) => command.args(["--engine", "ort", "--ort-library"]).arg(library),
            None => command.args(["--engine", "lenslet"]),
        };
        Self::start(command)
    }

    /// Starts it, and waits until it is ready.
    fn start(mut command: Command) -> Outcome<Started> {
        let mut child = command.stderr(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(child.stderr.take().ok_or("no log")?).lines();
        let mut address = None;
        for line in lines.by_ref() {
            let line = line?;
            let entry: Value = serde_json::from_str(&line).map_err(|_| line.clone())?;
            match entry["message"].as_str() {
                Some("listening") => address = entry["address"].as_str().and_then(|text| text.parse().ok()),
                Some("ready") => break,
                _ => {}
            }
        }
        // The log has to be read, or the server would wait for room in the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Started { child, address: address.ok_or("the server did not start")? })
    }
}

/// Sends one request and its like.
#[derive(Clone)]
struct Sender {
    client: Client<HttpConnector, Full<Bytes>>,
    url: String,
    head: usize,
    body: Bytes,
}

/// What became of requests.
#[derive(Default)]
struct Tally {
    good: usize,
    refused: usize,
    failed: usize,
    /// Of the good ones, in milliseconds.
    times: Vec<f64>,
    seconds: f64,
}

impl Tally {
    fn add(&mut self, (status, time): (u16, Duration)) {
        match status {
            200 => {
                self.good += 1;
                self.times.push(time.as_secs_f64() * 1e3);
            }
            429 => self.refused += 1,
            _ => self.failed += 1,
        }
    }

    fn rate(&self) -> f64 {
        self.good as f64 / self.seconds
    }

    fn percentile(&mut self, share: f64) -> f64 {
        self.times.sort_by(f64::total_cmp);
        let at = ((self.times.len() as f64 * share) as usize).min(self.times.len().saturating_sub(1));
        self.times.get(at).copied().unwrap_or(f64::NAN)
    }
}

impl Sender {
    /// Noise for a tower: bytes for pictures, which is a quarter of what floats take, and ids for texts.
    async fn new(address: SocketAddr, tower: &str) -> Outcome<Sender> {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let base = format!("http://{address}/v2/models/{tower}");
        let mut sender = Sender { client, url: base, head: 0, body: Bytes::new() };
        let metadata: Value = serde_json::from_slice(&sender.get(&sender.url).await?)?;
        let (mut inputs, mut binary) = (vec![], vec![]);
        for input in metadata["inputs"].as_array().ok_or("no inputs")? {
            let noise = |i: u64| i.wrapping_mul(2_654_435_761) >> 13;
            let sizes = input["shape"].as_array().ok_or("no shape")?;
            let picture = sizes.len() == 4;
            // Towers that take any size are asked in the size of theirs.
            let own = if picture { [1, 3, 112, 112] } else { [1, TOKENS as u64, 0, 0] };
            let shape: Vec<u64> = sizes.iter().zip(own).map(|(n, own)| n.as_u64().unwrap_or(own)).collect();
            let count: u64 = shape.iter().product();
            let (datatype, bytes): (_, Vec<u8>) = match picture {
                true => ("UINT8", (0..count).map(|i| noise(i) as u8).collect()),
                false if input["name"] == "attention_mask" => {
                    ("INT64", (0..count).flat_map(|_| 1i64.to_le_bytes()).collect())
                }
                false => ("INT64", (0..count).flat_map(|i| ((noise(i) % 1000) as i64).to_le_bytes()).collect()),
            };
            let mut parameters = json!({ "binary_data_size": bytes.len() });
            if picture {
                (parameters["scale"], parameters["zero_point"]) = ((1.0 / 64.0).into(), 128.into());
            }
            inputs
                .push(json!({ "name": input["name"], "datatype": datatype, "shape": shape, "parameters": parameters }));
            binary.extend(bytes);
        }
        let head = json!({ "inputs": inputs, "parameters": { "binary_data_output": true } }).to_string().into_bytes();
        sender.head = head.len();
        sender.body = [head, binary].concat().into();
        sender.url.push_str("/infer");
        Ok(sender)
    }

    async fn get(&self, url: &str) -> Outcome<Bytes> {
        let request = Request::get(url).body(Full::default())?;
        Ok(self.client.request(request).await?.into_body().collect().await?.to_bytes())
    }

    /// Status, and time until the answer has ended. 0 stands for no answer.
    async fn send(&self) -> (u16, Duration) {
        let started = Instant::now();
        let answer = async {
            let request = Request::builder().method(Method::POST).uri(&self.url);
            let request = request.header("inference-header-content-length", self.head);
            let answer = self.client.request(request.body(Full::new(self.body.clone()))?).await?;
            let status = answer.status().as_u16();
            answer.into_body().collect().await?;
            Outcome::Ok(status)
        };
        (answer.await.unwrap_or(0), started.elapsed())
    }

    /// So many clients, each of which asks again as soon as it is answered.
    async fn closed(&self, clients: usize, time: Duration) -> Tally {
        let (started, over) = (Instant::now(), Arc::new(AtomicBool::new(false)));
        let client = |_| {
            let (sender, over) = (self.clone(), over.clone());
            tokio::spawn(async move {
                let mut tally = Tally::default();
                while !over.load(Ordering::Relaxed) {
                    let answer = sender.send().await;
                    // A refused client waits a little: it was told to.
                    if answer.0 == 429 {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                    tally.add(answer);
                }
                tally
            })
        };
        let clients: Vec<_> = (0..clients).map(client).collect();
        tokio::time::sleep(time).await;
        over.store(true, Ordering::Relaxed);
        gather(clients, started).await
    }

    /// A request at each tick, whatever became of those before.
    async fn open(&self, rate: f64, time: Duration) -> Tally {
        let (started, mut requests) = (Instant::now(), vec![]);
        let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
        let under_way = Arc::new(AtomicUsize::new(0));
        while started.elapsed() < time {
            ticks.tick().await;
            // What the client itself cannot hold is not sent, and not counted.
            if under_way.load(Ordering::Relaxed) < 400 {
                let (sender, under_way) = (self.clone(), under_way.clone());
                under_way.fetch_add(1, Ordering::Relaxed);
                requests.push(tokio::spawn(async move {
                    let mut tally = Tally::default();
                    tally.add(sender.send().await);
                    under_way.fetch_sub(1, Ordering::Relaxed);
                    tally
                }));
            }
        }
        gather(requests, started).await
    }
}

async fn gather(clients: Vec<tokio::task::JoinHandle<Tally>>, started: Instant) -> Tally {
    let mut all = Tally::default();
    for client in clients {
        let Ok(tally) = client.await else { continue };
        all.good += tally.good;
        all.refused += tally.refused;
        all.failed += tally.failed;
        all.times.extend(tally.times);
    }
    all.seconds = started.elapsed().as_secs_f64();
    all
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The server's own memory in MiB.
async fn memory(sender: &Sender, address: SocketAddr) -> Outcome<f64> {
    let text = String::from_utf8(sender.get(&format!("http://{address}/metrics")).await?.to_vec())?;
    let line = text.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
    Ok(line.ok_or("the server does not tell its memory")?.trim().parse::<f64>()? / (1 << 20) as f64)
}

async fn batching(args: &Args, name: &str, model: &str, tower: &str, time: Duration) -> Outcome<Value> {
    let (single, batched) = (Started::new(args, model, false)?, Started::new(args, model, true)?);
    let senders = [Sender::new(single.address, tower).await?, Sender::new(batched.address, tower).await?];
    let (mut rates, mut tails) = ([vec![], vec![]], [vec![], vec![]]);
    for sender in &senders {
        sender.closed(args.concurrency, Duration::from_secs(1)).await;
    }
    for _ in 0..args.rounds {
        for (at, sender) in senders.iter().enumerate() {
            let mut tally = sender.closed(args.concurrency, time).await;
            rates[at].push(tally.rate());
            tails[at].push(tally.percentile(0.99));
        }
    }
    let [one, many] = rates.map(median);
    let [one_tail, many_tail] = tails.map(median);
    Ok(json!({
        "name": name, "engine": engine(args), "model": tower, "concurrency": args.concurrency,
        "per_second": many, "peer": "one at a time", "peer_per_second": one, "ratio": many / one,
        "p99_ms": many_tail, "peer_p99_ms": one_tail,
        "within_bound": one_tail <= args.bound_ms && many_tail <= args.bound_ms,
    }))
}

/// Tokens of a text about `subject` that a model writes.
async fn write(client: &Client<HttpConnector, Full<Bytes>>, address: SocketAddr, subject: &str) -> Outcome<u64> {
    let body = json!({
        "model": WRITER, "max_tokens": WRITTEN,
        "messages": [{ "role": "user", "content": format!("Write a long story about {subject}.") }],
    });
    let request = Request::builder().method(Method::POST).uri(format!("http://{address}/v1/chat/completions"));
    let request = request.header("content-type", "application/json").body(Full::new(body.to_string().into()))?;
    let answer = client.request(request).await?.into_body().collect().await?.to_bytes();
    let json: Value = serde_json::from_slice(&answer)?;
    Ok(json["usage"]["completion_tokens"].as_u64().ok_or_else(|| json.to_string())?)
}

/// What several texts at once gain over one after another.
async fn writing(args: &Args, folder: &Path) -> Outcome<Vec<Value>> {
    // In the most exact form that the folder has: dynamic INT8 is written text by text.
    let mut command = Command::new(&args.server);
    command.args(["--model", &format!("{WRITER}={}", folder.display()), "--listen", "127.0.0.1:0"]);
    command.args(["--device", "cpu", "--engine", "lenslet"]);
    let server = Started::start(command)?;
    let client = Client::builder(TokioExecutor::new()).build_http();
    // Lengths differ, as those of users do.
    let subjects: Vec<String> = (0..WRITERS[2]).map(|n| ["a cat", " and a dog"].concat().repeat(n + 1)).collect();
    write(&client, server.address, &subjects[0]).await?;
    let mut rates = WRITERS.map(|_| vec![]);
    for _ in 0..args.rounds {
        for (texts, rates) in WRITERS.into_iter().zip(&mut rates) {
            let started = Instant::now();
            let all = subjects[..texts].iter().map(|subject| write(&client, server.address, subject));
            let tokens: u64 = futures_util::future::try_join_all(all).await?.into_iter().sum();
            rates.push(tokens as f64 / started.elapsed().as_secs_f64());
        }
    }
    let row = |at: usize| {
        // Of each turn by itself: the machine's other work changes from turn to turn.
        let ratios = rates[at].iter().zip(&rates[0]).map(|(rate, one)| rate / one).collect();
        json!({
            "name": format!("tokens, {} texts", WRITERS[at]), "engine": "lenslet", "model": WRITER,
            "concurrency": WRITERS[at], "per_second": median(rates[at].clone()),
            "peer": "1 text", "peer_per_second": median(rates[0].clone()), "ratio": median(ratios),
        })
    };
    Ok((1..WRITERS.len()).map(row).collect())
}

async fn overload(args: &Args, time: Duration) -> Outcome<Value> {
    let server = Started::new(args, &args.model, true)?;
    let sender = Sender::new(server.address, &format!("{}.image", args.model)).await?;
    sender.closed(args.concurrency, Duration::from_secs(1)).await;
    let (mut peaks, mut goodputs, mut curve) = (vec![], vec![], vec![]);
    let before = memory(&sender, server.address).await?;
    for _ in 0..args.rounds {
        let peak = sender.closed(args.concurrency, time).await.rate();
        peaks.push(peak);
        for factor in [0.5, 1.0, 2.0, 3.0] {
            let mut tally = sender.open(peak * factor, time).await;
            if factor == 3.0 {
                goodputs.push(tally.rate());
            }
            curve.push(json!({
                "factor": factor, "good_per_second": tally.rate(), "share_of_peak": tally.rate() / peak,
                "refused": tally.refused, "failed": tally.failed, "p99_ms": tally.percentile(0.99),
            }));
        }
    }
    let after = memory(&sender, server.address).await?;
    let (peak, goodput) = (median(peaks), median(goodputs));
    Ok(json!({
        "name": "overload 3x", "engine": engine(args), "model": args.model, "per_second": goodput,
        "peer": "peak", "peer_per_second": peak, "ratio": goodput / peak,
        "memory_mib": [before, after], "curve": curve,
    }))
}

async fn soak(args: &Args) -> Outcome<Value> {
    let server = Started::new(args, &args.model, true)?;
    let sender = Sender::new(server.address, &format!("{}.image", args.model)).await?;
    let (mut samples, mut total) = (vec![], 0);
    let parts = 20;
    for _ in 0..parts {
        let tally = sender.closed(args.concurrency, Duration::from_secs_f64(args.soak / parts as f64)).await;
        total += tally.good;
        samples.push(memory(&sender, server.address).await?);
    }
    // The first quarter fills pools and caches.
    let (first, last) = (median(samples[parts / 4..parts / 2].to_vec()), median(samples[parts * 3 / 4..].to_vec()));
    Ok(json!({
        "name": "soak", "engine": engine(args), "model": args.model, "seconds": args.soak, "requests": total,
        "memory_mib": samples, "ratio": last / first,
    }))
}

fn engine(args: &Args) -> &'static str {
    if args.ort_library.is_some() { "ort" } else { "lenslet" }
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let args = Args::parse();
    let time = Duration::from_secs_f64(args.seconds);
    let mut rows = vec![];
    if let Some(folder) = &args.text_model {
        let (model, tower) = (format!("{TEXTS}={}", folder.display()), format!("{TEXTS}.text"));
        rows.push(batching(&args, "batching texts", &model, &tower, time).await?);
    }
    if let Some(folder) = &args.writer {
        rows.extend(writing(&args, folder).await?);
    }
    rows.push(batching(&args, "batching images", &args.model, &format!("{}.image", args.model), time).await?);
    rows.push(overload(&args, time).await?);
    if args.soak > 0.0 {
        rows.push(soak(&args).await?);
    }
    if args.json {
        println!("{:#}", json!({ "rows": rows }));
    } else {
        rows.iter().for_each(|row| println!("{row}"));
    }
    Ok(())
}
