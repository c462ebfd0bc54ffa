//! Random patterns, and texts that are near to matching them.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// A pattern and what is asked about it.
pub(crate) struct Question {
    pub(crate) pattern: String,
    pub(crate) texts: Vec<Vec<u8>>,
}

/// What texts are made of beside what patterns call for.
const CHARACTERS: [&str; 24] = [
    "a", "b", "c", "A", "B", "k", "K", "s", "0", "1", "/", "-", "_", " ", "\n", "{", "é", "É",
    "\u{212a}", "ſ", "β", "Σ", "ς", "𝒳",
];

/// Single characters, escapes and classes, each with texts that match it.
const ATOMS: [(&str, &[&str]); 80] = [
    ("a", &["a"]),
    ("b", &["b"]),
    ("k", &["k"]),
    ("s", &["s"]),
    ("/", &["/"]),
    ("é", &["é"]),
    ("ſ", &["ſ"]),
    ("𝒳", &["𝒳"]),
    ("Σ", &["Σ"]),
    ("{", &["{"]),
    ("}", &["}"]),
    ("]", &["]"]),
    ("{,2}", &["{,2}"]),
    ("{01}", &["{01}"]),
    ("{a", &["{a"]),
    (".", &["a", "é", "𝒳", "{"]),
    ("\\.", &["."]),
    ("\\_", &["_"]),
    ("\\-", &["-"]),
    ("\\d", &["0", "1"]),
    ("\\D", &["a", "é"]),
    ("\\w", &["a", "_", "0"]),
    ("\\W", &["/", "é", " "]),
    ("\\s", &[" ", "\n", "\t"]),
    ("\\S", &["a", "é"]),
    ("\\n", &["\n"]),
    ("\\t", &["\t"]),
    ("\\v", &["\u{b}"]),
    ("\\a", &["\u{7}"]),
    ("\\f", &["\u{c}"]),
    ("\\r", &["\r"]),
    ("\\x61", &["a"]),
    ("\\x{e9}", &["é"]),
    ("\\xb5", &["µ"]),
    ("\\xff", &["ÿ"]),
    ("[\\xdf-\\xff]", &["é", "ß"]),
    ("\\351", &["é"]),
    ("\\x{1D4B3}", &["𝒳"]),
    ("\\141", &["a"]),
    ("\\01", &["\u{1}"]),
    ("\\0", &["\0"]),
    ("\\08", &["\u{0}8"]),
    ("\\777", &["\u{1ff}"]),
    ("\\Qa*\\E", &["a*"]),
    ("\\Q\\E", &[""]),
    ("\\pL", &["a", "é", "β"]),
    ("\\PL", &["0", "/"]),
    ("\\p{Greek}", &["β", "Σ"]),
    ("\\p{^Greek}", &["a", "é"]),
    ("\\P{Greek}", &["a"]),
    ("\\p{Lu}", &["A", "É", "Σ"]),
    ("\\p{Nd}", &["0"]),
    ("\\p{Zl}", &["\u{2028}"]),
    ("\\pC", &["\0", "\u{1}"]),
    ("\\p{Any}", &["a", "𝒳"]),
    ("\\p{Letter}", &["a"]),
    ("\\p{greek}", &["β"]),
    ("\\C", &["a"]),
    ("[a-c]", &["a", "b", "c"]),
    ("[^a-c]", &["A", "é", "/"]),
    ("[]a]", &["]", "a"]),
    ("[^]a]", &["b"]),
    ("[a-]", &["a", "-"]),
    ("[a-b-c]", &["a", "-", "c"]),
    ("[a&&b]", &["a", "&", "b"]),
    ("[a--b]", &["a"]),
    ("[a~~b]", &["~"]),
    ("[\\d-z]", &["0", "-", "z"]),
    ("[\\w--]", &["-", "a"]),
    ("[[:alpha:]]", &["a", "k"]),
    ("[[:^alpha:]]", &["0", "é"]),
    ("[[:word:]é]", &["_", "é"]),
    ("[[:foo]", &["[", "f", ":"]),
    ("[\\pL0]", &["a", "é", "0"]),
    ("[^\\PL]", &["a", "é"]),
    ("[\\x{80}-\\x{FF}]", &["é", "𝒳"]),
    ("[\\x{90}-\\x{FE}]", &["é", "𝒳"]),
    ("[^\\x00-\\x{FF}]", &["a"]),
    ("[é-ё]", &["é", "β"]),
    ("[\\x00-\\x7f]", &["a", "\0"]),
];

/// What stands between characters.
const LOOKS: [&str; 12] = [
    "^", "$", "\\A", "\\z", "\\b", "\\B", "(?m)^", "(?m)$", "(?i)", "(?-i)", "(?s)", "(?im-s)",
];

const REPETITIONS: [&str; 14] = [
    "*", "+", "?", "*?", "+?", "??", "{0}", "{1}", "{2}", "{0,2}", "{1,}", "{2,3}?", "{2}", "{0,}",
];

/// Openings of groups.
const GROUPS: [&str; 10] = [
    "(", "(?:", "(", "(?:", "(?i:", "(?s:", "(?m:", "(?-i:", "(?U:", "(?i-s:",
];

/// Pieces that make sense only by chance.
const PIECES: [&str; 66] = [
    "a",
    "b",
    "k",
    "0",
    "é",
    "(",
    ")",
    "(",
    ")",
    "[",
    "]",
    "[^",
    "-",
    "|",
    "*",
    "+",
    "?",
    "{",
    "}",
    ",",
    "{2}",
    "{2,1}",
    "{1001}",
    "{1000}",
    "{,3}",
    "{100}",
    "\\",
    "\\d",
    "\\pL",
    "\\p",
    "\\p{",
    "\\p{Foo}",
    "\\pX",
    "\\P{^L}",
    "\\Q",
    "\\E",
    "\\Z",
    "\\1",
    "\\8",
    "\\18",
    "\\x",
    "\\x{",
    "\\x{}",
    "\\x{110000}",
    "\\x{D800}",
    "\\u0041",
    "(?",
    "(?i",
    "(?P<n>",
    "(?P<m>",
    "(?<o>",
    "(?P=n)",
    "(?=",
    "(?<=",
    "(?#",
    "(?i)",
    "(?-)",
    "(?R)",
    "(?x)",
    "[[:",
    ":]]",
    "[:foo:]",
    "[:alpha:]",
    "^",
    "$",
    ".",
];

/// Patterns that a generator would hardly meet: limits and intended differences.
pub(crate) fn fixed() -> Vec<Question> {
    let deep = |levels: usize| format!("{}a{}", "(".repeat(levels), ")".repeat(levels));
    let patterns = [
        String::new(),
        deep(99),
        deep(100),
        deep(101),
        "(?P<é>a)".to_owned(),
        "(?P<a>a)(?<b>b)".to_owned(),
        "(?P<a>a)(?<a>b)".to_owned(),
        "\\C\\C".to_owned(),
        "\\p{Letter}\\p{greek}\\p{Cn}".to_owned(),
        "((?:a{1000}){0}){1000}".to_owned(),
        "(a{10}){100}".to_owned(),
        "(a{10}){101}".to_owned(),
        "((a{10}){10}b){10}".to_owned(),
        "((a{10}){10}b){11}".to_owned(),
        "(a{1000}|b){1,}".to_owned(),
        "(?:a{2}){500}(?:b{2}){500}".to_owned(),
        "\\pL{300}".to_owned(),
        "(?i)".to_owned() + &"\\PL".repeat(40),
        "(\\pL{10}|[^a]){90}".to_owned(),
        "a{1000}b{1000}".to_owned(),
        "(?:(?:a|b)*a(?:a|b){14})".to_owned(),
        "[^\\x{90}]".to_owned(),
        "\\x{D800}[\\x{D7FF}-\\x{E000}]".to_owned(),
        "[^\\x{D900}-\\x{DA7f}]".to_owned(),
    ];
    let texts = [
        "",
        "a",
        "b",
        "ab",
        "aa",
        "é",
        "β",
        "aβ\u{378}",
        "aaaaaaaaaaaaaaaaaa",
        "\u{d7ff}\u{e000}",
    ];
    let bytes: [&[u8]; 16] = [
        b"\xff",
        b"\xc3",
        b"\xc3\xa9",
        b"\xc0\x80",
        b"\xe0\x80\x80",
        b"\xed\xa0\x80",
        b"\xed\xa0\x80\xed\xa0\x80",
        b"\xed\xa0\x80\xed\xbf\xbf",
        b"\xed\xa4\x80",
        b"\xed\xa9\xbf",
        b"\xed\xaa\x80",
        b"\xed\xa3\xbf",
        b"\xf4\x90\x80\x80",
        b"\xf0\x80\x80\x80",
        b"\xf5\x80\x80\x80",
        b"a\xe2\x82",
    ];
    let long = [
        "a".repeat(1000),
        "a".repeat(1000) + &"b".repeat(1000),
        "ab".repeat(500),
    ];
    patterns
        .into_iter()
        .map(|pattern| Question {
            pattern,
            texts: texts
                .iter()
                .map(|text| text.as_bytes().to_vec())
                .chain(bytes.iter().map(|bytes| bytes.to_vec()))
                .chain(long.iter().map(|text| text.clone().into_bytes()))
                .collect(),
        })
        .collect()
}

/// A random pattern; one in four is made of pieces that need not fit.
pub(crate) fn question(random: &mut StdRng) -> Question {
    let (pattern, samples) = if random.random_ratio(1, 4) {
        let count = random.random_range(1..9);
        let pieces = (0..count).map(|_| *PIECES.choose(random).expect("pieces"));
        (pieces.collect(), Vec::new())
    } else {
        let flags = ["", "", "", "(?i)", "(?s)", "(?m)", "(?ims)"];
        let flags = *flags.choose(random).expect("flags");
        let (pattern, sample) = alternation(random, 0);
        let (_, other) = alternation(random, 3);
        (flags.to_owned() + &pattern, vec![sample, other])
    };
    let mut texts: Vec<Vec<u8>> = Vec::new();
    for sample in &samples {
        texts.push(sample.clone().into_bytes());
        texts.extend(in_bytes(sample));
        texts.push(mutated(sample, random));
        texts.push(sample.to_uppercase().into_bytes());
    }
    while texts.len() < 6 {
        let count = random.random_range(0..6);
        let text: String = (0..count)
            .map(|_| *CHARACTERS.choose(random).expect("characters"))
            .collect();
        texts.push(text.into_bytes());
    }
    if random.random_ratio(1, 3) {
        let text = texts.first().cloned().unwrap_or_default();
        texts.push(broken(text, random));
    }
    Question { pattern, texts }
}

/// A pattern, and a text that may match it.
fn alternation(random: &mut StdRng, depth: u32) -> (String, String) {
    let count = [1, 1, 1, 2, 3].choose(random).copied().unwrap_or(1);
    let branches: Vec<_> = (0..count).map(|_| concat(random, depth)).collect();
    let sample = branches.choose(random).map(|branch| branch.1.clone());
    let patterns: Vec<_> = branches.into_iter().map(|branch| branch.0).collect();
    (patterns.join("|"), sample.unwrap_or_default())
}

fn concat(random: &mut StdRng, depth: u32) -> (String, String) {
    let (mut pattern, mut sample) = (String::new(), String::new());
    for _ in 0..random.random_range(0..5) {
        if random.random_ratio(1, 12) {
            pattern.push_str(LOOKS.choose(random).expect("looks"));
            continue;
        }
        let (atom, text) = if depth < 3 && random.random_ratio(1, 4) {
            let (inner, text) = alternation(random, depth + 1);
            let open = GROUPS.choose(random).expect("groups");
            (format!("{open}{inner})"), text)
        } else {
            let (atom, texts) = ATOMS.choose(random).expect("atoms");
            let text = texts.choose(random).expect("a text");
            ((*atom).to_owned(), (*text).to_owned())
        };
        pattern.push_str(&atom);
        let mut times = 1;
        if random.random_ratio(1, 3) {
            pattern.push_str(REPETITIONS.choose(random).expect("repetitions"));
            times = random.random_range(0..4);
        }
        sample.push_str(&text.repeat(times));
    }
    (pattern, sample)
}

/// Each character as one byte, in either case, where that is possible and not what it is
/// anyway.
fn in_bytes(text: &str) -> Vec<Vec<u8>> {
    [text.to_owned(), text.to_uppercase(), text.to_lowercase()]
        .iter()
        .filter_map(|text| as_bytes(text))
        .collect()
}

fn as_bytes(text: &str) -> Option<Vec<u8>> {
    let bytes = text.chars().map(|one| u8::try_from(u32::from(one)).ok());
    bytes
        .collect::<Option<Vec<u8>>>()
        .filter(|bytes| !bytes.is_ascii())
}

/// One character more, less or another.
fn mutated(text: &str, random: &mut StdRng) -> Vec<u8> {
    let mut characters: Vec<String> = text.chars().map(String::from).collect();
    let place = random.random_range(0..=characters.len());
    let other = CHARACTERS.choose(random).expect("characters").to_string();
    if place == characters.len() || random.random_ratio(1, 3) {
        characters.insert(place, other);
    } else if random.random_ratio(1, 2) {
        characters.remove(place);
    } else {
        characters[place] = other;
    }
    characters.concat().into_bytes()
}

/// No longer UTF-8, most times.
fn broken(mut text: Vec<u8>, random: &mut StdRng) -> Vec<u8> {
    let odd: [&[u8]; 9] = [
        b"\xff",
        b"\x80",
        b"\xc3",
        b"\xc0\x80",
        b"\xe0\x80\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xf0\x9d",
        b"\xf5\x80\x80\x80",
    ];
    let place = random.random_range(0..=text.len());
    let odd = odd.choose(random).expect("bytes");
    text.splice(place..place, odd.iter().copied());
    text
}
