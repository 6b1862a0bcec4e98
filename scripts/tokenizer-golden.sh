#!/bin/sh
# Remakes tests/golden/tokenizer.json: what SentencePiece's own spm_encode and spm_decode say about our lines.
# Needs them (Debian: apt-get install sentencepiece; made with 0.1.97) and Node.
#   scripts/tokenizer-golden.sh           the golden file, from the two committed models
#   scripts/tokenizer-golden.sh --train   also trains tests/golden/tokenizer_nfkc/spiece.model anew
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
nfkc=tests/golden/tokenizer_nfkc

if [ "${1:-}" = --train ]; then
  node tests/tokenizer/golden_corpus.mjs corpus > "$work/corpus.txt"
  # "⑳" is a symbol that the rules would make "20": a user-defined symbol must escape them.
  # All of nmt_nfkc makes a model of 240 KB; a tenth of its rules has every kind of rule in it.
  spm_normalize --decompile --normalization_rule_name=nmt_nfkc --output="$work/nmt_nfkc.tsv"
  node tests/tokenizer/golden_corpus.mjs rules "$work/nmt_nfkc.tsv" > "$work/rules.tsv"
  spm_train --input="$work/corpus.txt" --model_prefix="$work/spiece" --model_type=unigram --vocab_size=700 \
    --hard_vocab_limit=false --byte_fallback --user_defined_symbols='<sep>,[INST],[/INST],⑳' --num_threads=1 \
    --normalization_rule_tsv="$work/rules.tsv" --pad_id=0 --eos_id=1 --bos_id=2 --unk_id=3 --minloglevel=1
  mkdir -p "$nfkc"
  cp "$work/spiece.model" "$nfkc/spiece.model"
fi

# One text per line in, one line of ids or text out: so no text and no decoded text may hold a newline.
for folder in models/openmoe-tiny "$nfkc"; do
  name=$(basename "$folder")
  node tests/tokenizer/golden_corpus.mjs lines > "$work/lines.txt"
  spm_encode --model="$folder/spiece.model" --output_format=id < "$work/lines.txt" > "$work/$name.ids"
  spm_decode --model="$folder/spiece.model" --input_format=id < "$work/$name.ids" > "$work/$name.decoded"
  node tests/tokenizer/golden_corpus.mjs random-ids > "$work/$name.random"
  spm_decode --model="$folder/spiece.model" --input_format=id < "$work/$name.random" > "$work/$name.random_decoded"
done
node tests/tokenizer/golden_corpus.mjs collect "$work" > tests/golden/tokenizer.json
