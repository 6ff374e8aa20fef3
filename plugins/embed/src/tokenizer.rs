//! WordPiece (Schuster and Nakajima 2012) as BERT's uncased models have it.

use unicode_normalization::UnicodeNormalization as _;
use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory as _};

/// What the model was taught to see of a text, its two marks included.
const MAX_TOKENS: usize = 256;
/// Longer words are unknown.
const MAX_WORD: usize = 100;
const UNKNOWN: i64 = 100;
const BEGIN: i64 = 101;
const END: i64 = 102;

/// Every token with its number, sorted.
static TOKENS: &[(&str, i64)] = include!(concat!(env!("OUT_DIR"), "/tokens.rs"));

/// A text as the graph takes it.
pub struct Tokens {
    /// [`BEGIN`], the text, [`END`].
    pub ids: Vec<i64>,
    /// Whether the text went on.
    pub truncated: bool,
}

/// Reads as much of a text as the model can see. `None` if there is nothing in it.
pub fn tokenize(text: &str) -> Option<Tokens> {
    let mut words = Words::default();
    let mut ids = vec![BEGIN];
    for character in normalized(text).chain([' ']) {
        words.push(character, &mut ids);
        if ids.len() >= MAX_TOKENS {
            break;
        }
    }
    let truncated = ids.len() >= MAX_TOKENS;
    ids.truncate(MAX_TOKENS - 1);
    ids.push(END);
    (ids.len() > 2).then_some(Tokens { ids, truncated })
}

/// Lower case without accents; controls are dropped and every space is the same.
fn normalized(text: &str) -> impl Iterator<Item = char> {
    let plain = text.chars().filter_map(|character| match character {
        '\t' | '\n' | '\r' => Some(' '),
        '\u{fffd}' => None,
        _ if character.general_category_group() == GeneralCategoryGroup::Other => None,
        _ if character.is_whitespace() => Some(' '),
        _ => Some(character),
    });
    plain
        .nfd()
        .filter(|character| character.general_category() != GeneralCategory::NonspacingMark)
        .flat_map(char::to_lowercase)
}

/// Gathers characters until a word is complete.
#[derive(Default)]
struct Words {
    word: Vec<char>,
}

impl Words {
    fn push(&mut self, character: char, ids: &mut Vec<i64>) {
        let alone = is_punctuation(character) || is_ideograph(character);
        if !alone && character != ' ' {
            // One more than the longest says that it is too long.
            if self.word.len() <= MAX_WORD {
                self.word.push(character);
            }
            return;
        }
        split(&std::mem::take(&mut self.word), ids);
        if alone {
            split(&[character], ids);
        }
    }
}

/// The longest known beginning, then the longest known continuation, and so on to the word's end; a word that
/// has no such parts is unknown as a whole.
fn split(word: &[char], ids: &mut Vec<i64>) {
    if word.len() > MAX_WORD {
        ids.push(UNKNOWN);
        return;
    }
    let before = ids.len();
    let mut start = 0;
    while start < word.len() {
        let prefix = if start == 0 { "" } else { "##" };
        let part = (start + 1..=word.len()).rev().find_map(|end| {
            let part: String = prefix.chars().chain(word[start..end].iter().copied()).collect();
            Some((end, find(&part)?))
        });
        let Some((end, id)) = part else {
            ids.truncate(before);
            ids.push(UNKNOWN);
            return;
        };
        ids.push(id);
        start = end;
    }
}

fn find(token: &str) -> Option<i64> {
    let place = TOKENS.binary_search_by_key(&token, |(token, _)| token).ok()?;
    Some(TOKENS[place].1)
}

fn is_punctuation(character: char) -> bool {
    character.is_ascii_punctuation()
        || character.general_category_group() == GeneralCategoryGroup::Punctuation
}

/// Chinese characters, which stand for words each: the blocks of CJK ideographs that BERT names.
fn is_ideograph(character: char) -> bool {
    matches!(u32::from(character),
        0x3400..=0x4dbf | 0x4e00..=0x9fff | 0xf900..=0xfaff | 0x2_0000..=0x2_a6df | 0x2_a700..=0x2_b73f
        | 0x2_b740..=0x2_b81f | 0x2_b820..=0x2_ceaf | 0x2_f800..=0x2_fa1f)
}
