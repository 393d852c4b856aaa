//! Random histories against a model that is obviously right.

use super::*;

/// What the engine must hold, batch by batch.
struct Model {
    /// The rows after each batch since the newest sync, that one's first.
    since_sync: Vec<Rows>,
    snapshots: Vec<(Arc<dyn Read>, Rows)>,
    checkpoints: u64,
}

impl Model {
    fn now(&self) -> &Rows {
        self.since_sync.last().expect("there is always a present")
    }
}

fn random_key(random: &mut StdRng) -> Vec<u8> {
    let length = random.random_range(0..4);
    (0..length).map(|_| b"\0ab\xff"[random.random_range(0..4)]).collect()
}

fn random_batch(random: &mut StdRng, rows: &mut Rows) -> Batch {
    let mut batch = Batch::new();
    for _ in 0..random.random_range(0..12) {
        let table = Table::ALL[random.random_range(0..Table::ALL.len())];
        let key = random_key(random);
        if random.random_bool(0.3) {
            batch.delete(table, &[&key]);
            rows.remove(&(table, key));
        } else {
            let value = vec![random.random(); random.random_range(0..800)];
            batch.put(table, &[&key], &[&value]);
            rows.insert((table, key), value);
        }
    }
    batch
}

fn check_reads(read: &dyn Read, rows: &Rows, random: &mut StdRng) {
    let table = Table::ALL[random.random_range(0..Table::ALL.len())];
    let key = random_key(random);
    let found = read.get(table, &key).unwrap().map(|value| value.to_vec());
    assert_eq!(found.as_ref(), rows.get(&(table, key)));

    let (lower, upper) = (random_key(random), random_key(random));
    let upper = random.random_bool(0.7).then_some(upper.as_slice());
    let mut cursor = read.cursor(table, Span { lower: &lower, upper }).unwrap();
    let mut from = Bound::Included(lower.clone());
    for _ in 0..random.random_range(1..20) {
        let found = if random.random_bool(0.2) {
            let key = random_key(random);
            from = Bound::Included(key.clone().max(lower.clone()));
            cursor.seek(&key).unwrap()
        } else {
            cursor.next().unwrap()
        };
        let expected = rows
            .range((from.clone().map(|key| (table, key)), Bound::Unbounded))
            .take_while(|((of, key), _)| {
                *of == table && upper.is_none_or(|upper| key.as_slice() < upper)
            })
            .map(|((_, key), value)| (key.as_slice(), value.as_slice()))
            .next();
        assert_eq!(found, expected, "from {from:?} in {lower:?}..{upper:?}");
        from = match found {
            Some((key, _)) => Bound::Excluded(key.to_vec()),
            // At the end, and only a seek leads away from there.
            None => Bound::Excluded(vec![0xff; 9]),
        };
    }
}

fn step(bench: &mut Bench, model: &mut Model, random: &mut StdRng) {
    match random.random_range(0..100) {
        0..50 => {
            let mut rows = model.now().clone();
            let batch = random_batch(random, &mut rows);
            bench.engine().write(&batch).unwrap();
            model.since_sync.push(rows);
        }
        50..75 => check_reads(bench.engine(), model.now(), random),
        75..85 => {
            if let Some((snapshot, rows)) = model.snapshots.last() {
                check_reads(&**snapshot, rows, random);
            }
        }
        85..89 => {
            model.snapshots.push((bench.engine().snapshot(), model.now().clone()));
        }
        89..92 => {
            if !model.snapshots.is_empty() {
                let one = random.random_range(0..model.snapshots.len());
                let (snapshot, rows) = model.snapshots.swap_remove(one);
                assert_eq!(contents(&*snapshot).unwrap(), rows);
            }
        }
        92..95 => {
            bench.engine().sync().unwrap();
            model.since_sync.drain(..model.since_sync.len() - 1);
        }
        95..96 => {
            let table = Table::ALL[random.random_range(0..Table::ALL.len())];
            let lower = random_key(random);
            bench.engine().reclaim(table, Span { lower: &lower, upper: None });
        }
        96..98 => {
            model.checkpoints += 1;
            let directory = bench.root.path().join(format!("checkpoint-{}", model.checkpoints));
            bench.engine().checkpoint(&directory).unwrap();
            let copy = bench.open_checkpoint(&directory);
            assert_eq!(contents(&*copy).unwrap(), *model.now());
        }
        _ => {
            // Cursors and snapshots belong to the process that is gone.
            model.snapshots.clear();
            bench.crash();
            let rows = contents(bench.engine()).unwrap();
            let kept = model.since_sync.iter().rposition(|then| *then == rows);
            let kept = kept.expect("a crash leaves what some batch had left");
            model.since_sync.truncate(kept + 1);
        }
    }
}

#[test]
fn a_random_history_reads_as_its_model() {
    each(|bench| {
        for seed in 0..4 {
            println!("seed {seed}");
            let mut random = StdRng::seed_from_u64(seed);
            let now = contents(bench.engine()).unwrap();
            bench.engine().sync().unwrap();
            let checkpoints = seed * 1000;
            let mut model = Model { since_sync: vec![now], snapshots: Vec::new(), checkpoints };
            for _ in 0..300 {
                step(bench, &mut model, &mut random);
            }
            assert_eq!(contents(bench.engine()).unwrap(), *model.now());
        }
    });
}
