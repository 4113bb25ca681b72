//! Models that were, on machines that could be.

use super::*;

const GB: u64 = 1_000_000_000;
const EVERYTHING: [Dtype; 8] = Dtype::ALL;

/// One matrix as a file in `bits` a number has it.
fn matrix(rows: u64, cols: u64, bits: u64) -> Part {
    Part::matrix(rows, cols, rows * cols * bits / 8)
}

/// A model of Llama's kind: embeddings and head apart, `blocks` blocks.
fn llama(hidden: u64, inner: u64, kv: u64, vocab: u64, blocks: usize, bits: u64) -> (Parts, Sizes) {
    let products = [(hidden, hidden), (kv, hidden), (kv, hidden), (hidden, hidden)];
    let inner = [(inner, hidden), (inner, hidden), (hidden, inner)];
    let block: Part = products.into_iter().chain(inner).map(|(rows, cols)| matrix(rows, cols, bits)).sum();
    let parts = Parts {
        embeddings: matrix(vocab, hidden, bits),
        head: matrix(vocab, hidden, bits) + Part::vector(hidden),
        blocks: vec![block + Part::vector(2 * hidden); blocks],
    };
    (parts, Sizes { hidden, vocab, cache: 2 * kv * 4 })
}

fn llama_8b(stored: &str) -> Demand {
    let (bits, form) = match stored {
        "f32" => (32, Stored::F32),
        "f16" => (16, Stored::F16),
        "bf16" => (16, Stored::Bf16),
        quantised => (5, Stored::Quantised(quantised.to_owned())), // q4_1
    };
    let (parts, sizes) = llama(4096, 14336, 1024, 128_256, 32, bits);
    Demand::new(&parts, 0..32, form, sizes, 8192, 128)
}

/// A machine with that much memory whose processor has everything, or nothing.
fn machine(free: u64, avx512: bool) -> Machine {
    let features = if avx512 { vec!["avx512f", "avx2", "fma", "f16c"] } else { vec!["avx2", "fma", "f16c"] };
    let lacking = |text: &str| Err(text.to_owned());
    Machine {
        features: Features(features),
        free,
        backends: vec![
            Backend {
                name: "candle-cuda",
                place: Place::Card,
                dtypes: &EVERYTHING,
                kv_types: &[KvType::F32],
                automatic: true,
                screens: false,
                widens: false,
                usable: lacking("no driver"),
            },
            Backend {
                name: "candle-cpu",
                place: Place::Processor,
                dtypes: &EVERYTHING,
                kv_types: &KvType::ALL,
                automatic: true,
                screens: true,
                widens: true,
                usable: Ok(Vec::new()),
            },
            Backend {
                name: "tch",
                place: Place::Processor,
                dtypes: &[Dtype::F32],
                kv_types: &[KvType::F32],
                automatic: false,
                screens: false,
                widens: false,
                usable: Ok(Vec::new()),
            },
        ],
    }
}

fn with_cards(mut machine: Machine, free: &[u64]) -> Machine {
    let card = |free: &u64| Card { name: "A100".into(), total: 80 * GB, free: *free };
    machine.backends[0].usable = Ok(free.iter().map(card).collect());
    machine
}

fn decide(demand: &Demand, wish: &Wish, machine: &Machine) -> Result<Choice, String> {
    choose(demand, wish, machine, &machine.room())
}

fn auto(demand: &Demand, machine: &Machine) -> (&'static str, Dtype) {
    let choice = decide(demand, &Wish::default(), machine).unwrap();
    assert_eq!(choice.ends, choice.blocks);
    (choice.ends.backend, choice.ends.dtype)
}

/// Petals Chat's table of what a client needs for embeddings and head, in GB.
#[test]
fn the_clients_part_of_big_models_is_what_petals_chat_says() {
    let bloom = Parts {
        embeddings: matrix(250_880, 14_336, 16) + Part::vector(2 * 14_336),
        head: Part::vector(2 * 14_336),
        blocks: vec![Part::default(); 70],
    };
    let llama_65b = llama(8192, 22_016, 8192, 32_000, 80, 16).0;
    let llama_405b = llama(16_384, 53_248, 1024, 128_256, 126, 16).0;
    for (parts, hidden, vocab, bf16, f32) in [
        (bloom, 14_336, 250_880, 7.19, 14.39),
        (llama_65b, 8192, 32_000, 1.05, 2.10),
        (llama_405b, 16_384, 128_256, 8.41, 16.81),
    ] {
        let sizes = Sizes { hidden, vocab, cache: 0 };
        let demand = Demand::new(&parts, 0..0, Stored::Bf16, sizes, 32_768, 128);
        let gb = |dtype| demand.all(dtype).unwrap().weights as f64 / 1e9;
        assert!((gb(Dtype::Bf16) - bf16).abs() < 0.01, "{}", gb(Dtype::Bf16));
        assert!((gb(Dtype::F32) - f32).abs() < 0.01, "{}", gb(Dtype::F32));
        assert_eq!(demand.all(Dtype::F32).unwrap().cache, 0, "a swarm keeps its own");
        assert!(demand.all(Dtype::F32).unwrap().working < GB / 10);
    }
}

#[test]
fn a_model_on_one_machine_is_its_weights_and_its_cache() {
    let demand = llama_8b("bf16");
    let of = |dtype| demand.all(dtype).unwrap();
    // 8.03 billion numbers.
    for (dtype, gb) in [
        (Dtype::F32, 32.1),
        (Dtype::Bf16, 16.1),
        (Dtype::Stored, 16.1),
        (Dtype::Q8_0, 8.53),
        (Dtype::Q5_1, 6.02),
        (Dtype::Q4_1, 5.02),
        (Dtype::Q4_0, 4.52),
    ] {
        let found = of(dtype).weights as f64 / 1e9;
        assert!((found - gb).abs() < 0.05, "{dtype}: {found}");
        // 32 blocks x 8 heads of 128 x keys and values x 4 bytes x 8192 positions
        assert_eq!(of(dtype).cache, 32 * 1024 * 2 * 4 * 8192);
    }
    assert!((10_000_000..200_000_000).contains(&of(Dtype::F32).working), "{}", of(Dtype::F32).working);
}

#[test]
fn a_quantised_file_is_taken_as_it_is() {
    for avx512 in [true, false] {
        let machine = machine(1000 * GB, avx512);
        let choice = decide(&llama_8b("q4_1"), &Wish::default(), &machine).unwrap();
        assert_eq!((choice.ends.backend, choice.ends.dtype), ("candle-cpu", Dtype::Stored));
        assert!(choice.reason.contains("the file is quantised (q4_1)"), "{}", choice.reason);
    }
}

#[test]
fn sixteen_bits_with_avx512_else_single_precision() {
    for (stored, with, without) in
        [("f32", Dtype::Bf16, Dtype::F32), ("bf16", Dtype::Stored, Dtype::F32), ("f16", Dtype::Stored, Dtype::F32)]
    {
        let demand = llama_8b(stored);
        assert_eq!(auto(&demand, &machine(1000 * GB, true)), ("candle-cpu", with), "{stored}");
        assert_eq!(auto(&demand, &machine(1000 * GB, false)), ("candle-cpu", without), "{stored}");
    }
    // Kernels that are configured count, not those there are.
    let wish = Wish { kernels: Some(Kernels::Avx2), ..Wish::default() };
    let choice = decide(&llama_8b("f32"), &wish, &machine(1000 * GB, true)).unwrap();
    assert_eq!((choice.ends.dtype, choice.kernels), (Dtype::F32, Kernels::Avx2));
}

#[test]
fn where_memory_is_short_the_widest_form_that_fits_is_taken() {
    // The cache takes 2.1 GB, a step 0.1.
    for (free, avx512, dtype) in [
        (19, true, Dtype::Bf16),
        (18, true, Dtype::Q8_0),
        (35, false, Dtype::F32),
        (34, false, Dtype::Q8_0),
        (11, true, Dtype::Q8_0),
        (10, true, Dtype::Q5_1),
        (8, true, Dtype::Q4_1),
        (7, true, Dtype::Q4_0),
    ] {
        let found = auto(&llama_8b("f32"), &machine(free * GB, avx512));
        assert_eq!(found, ("candle-cpu", dtype), "{free} GB");
    }
    // Of a 16-bit file, f32 takes 16 bits.
    assert_eq!(auto(&llama_8b("bf16"), &machine(19 * GB, false)).1, Dtype::F32);
    assert_eq!(auto(&llama_8b("bf16"), &machine(18 * GB, false)).1, Dtype::Q8_0);
    assert_eq!(auto(&llama_8b("q4_1"), &machine(7 * GB, false)).1, Dtype::Q4_0);
    let choice = decide(&llama_8b("f32"), &Wish::default(), &machine(10 * GB, true)).unwrap();
    assert!(choice.reason.ends_with("q5_1 is the widest form that fits: q8_0 needs 10.7 GB and 10.0 GB is free"));
}

#[test]
fn what_fits_in_no_form_is_refused_with_what_would_help() {
    let fault = decide(&llama_8b("f32"), &Wish::default(), &machine(5 * GB, true)).unwrap_err();
    assert_eq!(
        fault,
        "not enough memory: q4_0, the narrowest form, needs 6.7 GB of memory (4.5 GB of weights and 2.1 GB of KV cache for \
         8192 positions), 5.0 GB is free; set cache_tokens = 1536 or blocks = \"swarm\" (needs 608 MB here), or use a \
         machine with more; memory_check = false overrules this estimate"
    );
    let wish = Wish { check_memory: false, ..Wish::default() };
    assert_eq!(decide(&llama_8b("f32"), &wish, &machine(5 * GB, true)).unwrap().ends.dtype, Dtype::Bf16);
    // Whoever serves blocks cannot leave them to the swarm.
    let host = llama_8b("f32").without_ends();
    let fault = decide(&host, &Wish::default(), &machine(5 * GB, true)).unwrap_err();
    assert!(fault.contains("; set cache_tokens = ") && !fault.contains("swarm"), "{fault}");
}

#[test]
fn rows_that_are_no_multiples_of_32_are_not_quantised() {
    let (parts, sizes) = llama(80, 112, 80, 300, 2, 32);
    let demand = Demand::new(&parts, 0..2, Stored::F32, sizes, 64, 8);
    assert_eq!(demand.all(Dtype::Q8_0), None);
    assert!(demand.all(Dtype::Bf16).is_some());
    assert!(table(&demand, (false, None), &machine(GB, true).room()).iter().all(|row| row.fits == row.bytes.is_some()));
    let fault = decide(&demand, &Wish::default(), &machine(1000, true)).unwrap_err();
    assert!(fault.starts_with("not enough memory: bf16 needs"), "{fault}");
    let wish = Wish { dtype: Some(Dtype::Q4_0), ..Wish::default() };
    let fault = decide(&demand, &wish, &machine(GB, true)).unwrap_err();
    assert!(fault.contains("dtype = \"q4_0\"") && fault.contains("no multiples of 32"), "{fault}");
}

#[test]
fn a_card_with_room_comes_first() {
    let here = machine(1000 * GB, true);
    for (stored, dtype) in [("f32", Dtype::Bf16), ("bf16", Dtype::Bf16), ("f16", Dtype::F16), ("q4_1", Dtype::Stored)] {
        let choice =
            decide(&llama_8b(stored), &Wish::default(), &with_cards(here.clone(), &[10 * GB, 40 * GB])).unwrap();
        assert_eq!(choice.ends, Side { backend: "candle-cuda", dtype, card: Some(1) }, "{stored}");
        assert_eq!((choice.blocks, choice.memory), (choice.ends, 0));
        let why = if stored == "q4_1" { "the file is quantised (q4_1)" } else { "cards keep 16 bits a number" };
        assert!(choice.reason.contains(why), "{stored}: {}", choice.reason);
    }
    let choice = decide(&llama_8b("f32"), &Wish::default(), &with_cards(here.clone(), &[10 * GB])).unwrap();
    assert_eq!((choice.ends.backend, choice.ends.dtype), ("candle-cpu", Dtype::Bf16));
    assert!(choice.reason.contains("of cuda:0's memory"), "{}", choice.reason);
    let choice = decide(&llama_8b("f32"), &Wish::default(), &with_cards(here, &[])).unwrap();
    assert_eq!(choice.ends.backend, "candle-cpu");
}

#[test]
fn what_is_configured_is_kept() {
    let here = with_cards(machine(1000 * GB, true), &[40 * GB]);
    let on = |wish: Wish| decide(&llama_8b("f32"), &wish, &here);
    let dtype = |dtype| Wish { dtype: Some(dtype), ..Wish::default() };
    assert_eq!(on(dtype(Dtype::F32)).unwrap().ends.backend, "candle-cuda");
    assert_eq!(on(dtype(Dtype::Q8_0)).unwrap().ends.backend, "candle-cuda");
    let backend = |name| Wish { backend: Some(name), ..Wish::default() };
    assert_eq!(on(backend("candle-cpu")).unwrap().ends.dtype, Dtype::Bf16);
    let tch = on(backend("tch")).unwrap();
    assert_eq!((tch.ends.dtype, &*tch.reason), (Dtype::F32, "the backend is as configured; tch computes in f32 only"));
    let fault = on(Wish { dtype: Some(Dtype::Bf16), ..backend("tch") }).unwrap_err();
    assert!(
        fault.starts_with("dtype = \"bf16\" is not possible with backend = \"tch\", which computes in f32"),
        "{fault}"
    );
    let fault = on(Wish { card: Some(3), ..backend("candle-cuda") }).unwrap_err();
    assert_eq!(fault, "device = \"cuda:3\" is not there; candle-cuda sees cuda:0 (A100)");
    let fault = decide(&llama_8b("f32"), &backend("candle-cuda"), &machine(GB, true)).unwrap_err();
    assert_eq!(fault, "backend = \"candle-cuda\" cannot be used: no driver");
    let explicit = Wish { dtype: Some(Dtype::F32), ..backend("candle-cpu") };
    let fault = decide(&llama_8b("f32"), &explicit, &machine(20 * GB, true)).unwrap_err();
    assert!(fault.contains("f32 needs 34.3 GB of memory") && fault.contains("20.0 GB is free"), "{fault}");
    assert!(fault.contains("set dtype = \"bf16\" (needs 18.3 GB)"), "{fault}");
}

#[test]
fn ends_and_blocks_may_be_computed_by_different_backends() {
    let here = with_cards(machine(60 * GB, true), &[5 * GB]);
    let wish = Wish { backend: Some("candle-cuda"), blocks_backend: Some("tch"), ..Wish::default() };
    let choice = decide(&llama_8b("f32"), &wish, &here).unwrap();
    assert_eq!((choice.ends.backend, choice.ends.dtype, choice.ends.card), ("candle-cuda", Dtype::Bf16, Some(0)));
    assert_eq!((choice.blocks.backend, choice.blocks.dtype, choice.blocks.card), ("tch", Dtype::F32, None));
    // 6.98 billion numbers in the blocks.
    assert!((30 * GB..31 * GB).contains(&choice.memory), "{}", choice.memory);
    let wish = Wish { backend: Some("candle-cuda"), head_on_processor: true, ..Wish::default() };
    let here = with_cards(machine(60 * GB, true), &[17 * GB]);
    let choice = decide(&llama_8b("f32"), &wish, &here).unwrap();
    assert!(choice.head_on_processor && (2 * GB..3 * GB).contains(&choice.memory), "{}", choice.memory);
}

#[test]
fn several_models_share_the_memory() {
    let model = |dtype| (llama_8b("f32"), Wish { dtype, ..Wish::default() });
    let models = [model(None), model(Some(Dtype::Bf16)), model(None)];
    let dtypes = |free| -> Vec<Option<Dtype>> {
        choose_all(&models, &machine(free * GB, true))
            .into_iter()
            .map(|(it, _)| it.ok().map(|it| it.ends.dtype))
            .collect()
    };
    assert_eq!(dtypes(60), [Some(Dtype::Bf16); 3]);
    assert_eq!(dtypes(48), [Some(Dtype::Bf16), Some(Dtype::Bf16), Some(Dtype::Q8_0)]);
    assert_eq!(dtypes(26), [Some(Dtype::Q4_1), Some(Dtype::Bf16), None]);
    let both = choose_all(&[model(Some(Dtype::F32)), model(Some(Dtype::F32))], &machine(60 * GB, true));
    let fault = both[1].0.as_ref().unwrap_err();
    assert!(fault.contains("25.7 GB is free beside the 34.3 GB of the other models"), "{fault}");
    let cards = with_cards(machine(60 * GB, true), &[20 * GB, 25 * GB]);
    let places: Vec<_> =
        choose_all(&vec![model(None); 3], &cards).into_iter().map(|(it, _)| it.unwrap().ends).collect();
    assert_eq!(places.iter().map(|side| side.card).collect::<Vec<_>>(), [Some(1), Some(0), None]);
}

#[test]
fn kernels_that_the_processor_lacks_are_refused_with_what_it_has() {
    let old = Features(vec!["avx2", "fma", "f16c"]);
    assert_eq!(check_kernels(None, &old), Ok(Kernels::Avx2));
    assert_eq!(check_kernels(Some(Kernels::Scalar), &old), Ok(Kernels::Scalar));
    assert_eq!(
        check_kernels(Some(Kernels::Avx512), &old).unwrap_err(),
        "kernels = \"avx512\" needs avx512f, which this processor lacks (it has avx2, fma, f16c); it can run \"avx2\" and \
         \"scalar\", or leave kernels at \"auto\""
    );
    assert_eq!(check_kernels(None, &Features::default()), Ok(Kernels::Scalar));
}

#[test]
fn no_number_overflows() {
    let huge = Parts {
        embeddings: Part::matrix(u64::MAX, 64, u64::MAX),
        head: Part::default(),
        blocks: vec![Part::matrix(u64::MAX, u64::MAX, u64::MAX); 3],
    };
    let sizes = Sizes { hidden: u64::MAX, vocab: u64::MAX, cache: u64::MAX };
    let demand = Demand::new(&huge, 0..3, Stored::F32, sizes, u64::MAX, u64::MAX);
    assert!(decide(&demand, &Wish::default(), &machine(GB, true)).unwrap_err().starts_with("not enough memory"));
}

#[test]
fn a_screen_is_counted_where_the_head_is_wide_and_on_the_processor() {
    let rows = 128_256u64;
    let numbers = rows * 4096;
    let demand = llama_8b("bf16");
    let more_with = |screen, demand: &Demand, dtype| {
        let ends = [demand.screened_ends(dtype, Some(screen)), demand.ends(dtype)];
        let [with, without] = ends.map(|bytes| bytes.unwrap().weights.cast_signed());
        with - without
    };
    let more = |demand: &Demand, dtype| more_with(Screen::Int8, demand, dtype);
    let screen_more = (rows * (4096 + 12)).cast_signed();
    assert_eq!(more_with(Screen::Int4, &demand, Dtype::F32), (rows * (4096 / 2 + 4096 / 64 + 12)).cast_signed());
    assert_eq!(more(&demand, Dtype::F32), screen_more);
    for dtype in [Dtype::Stored, Dtype::Bf16] {
        assert_eq!(more(&demand, dtype), screen_more - 2 * numbers.cast_signed(), "the head stays on disk");
    }
    assert_eq!(more(&llama_8b("f32"), Dtype::F32), screen_more - 4 * numbers.cast_signed());
    assert_eq!(more(&demand, Dtype::F16), screen_more, "other numbers of that size are made");
    assert_eq!(more(&demand, Dtype::Q8_0), 0);
    assert_eq!(more(&llama_8b("q4_1"), Dtype::Stored), 0);
    assert_eq!(more(&llama_8b("q4_1"), Dtype::Bf16), screen_more);
    assert_eq!(more(&demand.clone().without_ends(), Dtype::Bf16), 0);

    let machine = with_cards(machine(100 * GB, true), &[60 * GB]);
    let weights = |wish: Wish| decide(&demand, &wish, &machine).unwrap().bytes.weights.cast_signed();
    for (backend, head_on_processor, screened) in
        [("candle-cpu", false, true), ("candle-cuda", false, false), ("candle-cuda", true, true), ("tch", false, false)]
    {
        let dtype = Some(Dtype::F32);
        let wish = Wish { backend: Some(backend), dtype, head_on_processor, ..Wish::default() };
        let without = weights(wish.clone());
        let with = weights(Wish { screen: Some(Screen::Int8), ..wish });
        // There, the head is kept as it is in the file.
        assert_eq!(with - without, if screened { screen_more - 2 * numbers.cast_signed() } else { 0 }, "{backend}");
    }
}

#[test]
fn single_precision_takes_16_bits_of_a_16_bit_file_where_they_are_widened() {
    let machine = with_cards(machine(100 * GB, true), &[60 * GB]);
    for (stored, backend, head_on_processor, wider) in [
        ("bf16", "candle-cpu", false, 0),
        ("f16", "candle-cpu", false, 0),
        ("f32", "candle-cpu", false, 16),
        ("bf16", "tch", false, 16),
        ("bf16", "candle-cuda", false, 16),
        ("bf16", "candle-cuda", true, 14), // the blocks
    ] {
        let wish = Wish { backend: Some(backend), dtype: Some(Dtype::F32), head_on_processor, ..Wish::default() };
        let found = decide(&llama_8b(stored), &wish, &machine).unwrap().bytes.weights;
        let beyond = (found - llama_8b("bf16").all(Dtype::Bf16).unwrap().weights) as f64 / 1e9;
        assert!((beyond - f64::from(wider)).abs() < 0.1, "{stored} on {backend}: {beyond}");
    }
    let weights = |widens| -> Vec<u64> {
        let rows = table(&llama_8b("bf16"), (widens, None), &machine.room());
        rows.into_iter().take(3).map(|row| row.bytes.unwrap().weights).collect()
    };
    let [stored, f32, bf16] = weights(true)[..] else { panic!("three rows") };
    assert!(stored == bf16 && f32 == bf16);
    assert!(weights(false)[1] > 19 * bf16 / 10);
}

#[test]
fn what_would_help_is_told_with_the_screen() {
    let (demand, machine) = (llama_8b("f32"), machine(5 * GB, true));
    // Embeddings and head in bf16, 2 x 1.05 GB, and a screen of 0.53 or 0.27.
    let wish = |screen| Wish { dtype: Some(Dtype::Bf16), screen, ..Wish::default() };
    let fault = |screen| decide(&demand, &wish(screen), &machine).unwrap_err();
    assert!(fault(None).contains("blocks = \"swarm\" (needs 2.1 GB here)"), "{}", fault(None));
    for (screen, needs) in [(Screen::Int8, "2.6"), (Screen::Int4, "2.4")] {
        let fault = fault(Some(screen));
        assert!(fault.contains(&format!("blocks = \"swarm\" (needs {needs} GB here)")), "{fault}");
    }
}

#[test]
fn keys_and_values_are_kept_as_configured_or_not_at_all() {
    let demand = llama_8b("bf16");
    let wish = |backend| Wish { backend, kv_type: KvType::Q8, ..Wish::default() };
    let machine = with_cards(machine(40 * GB, true), &[80 * GB]);
    let room = machine.room();
    let choice = choose(&demand, &wish(None), &machine, &room).unwrap();
    assert_eq!(choice.blocks.backend, "candle-cpu", "though a card has room: {}", choice.reason);
    for name in ["candle-cuda", "tch"] {
        let wish = Wish { dtype: Some(Dtype::F32), ..wish(Some(name)) };
        assert_eq!(
            choose(&demand, &wish, &machine, &room).unwrap_err(),
            format!(
                "kv_cache = \"q8\" is not possible with {name}; leave kv_cache out, or have the blocks computed by \
                 candle-cpu"
            )
        );
        let split = Wish { blocks_backend: Some("candle-cpu"), ..wish };
        assert_eq!(choose(&demand, &split, &machine, &room).unwrap().blocks.backend, "candle-cpu");
    }
}
