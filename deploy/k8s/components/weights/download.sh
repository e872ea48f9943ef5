# Brings each repository at its commit into its folder and marks it complete. What is complete is left alone; what was
# broken off goes on. Set: MODEL, MODEL_REVISION, CODEC, CODEC_REVISION; HF_TOKEN for a model behind terms.
set -eu

fetch() {
  folder="${MODELS:-/models}/$2/$1"
  [ -e "$folder/complete" ] && return
  hf download "$1" --revision "$2" --local-dir "$folder" \
    --include "*.json" --include "*.safetensors" --include "$3"
  touch "$folder/complete"
}

fetch "$MODEL" "$MODEL_REVISION" "tokenizer*"
fetch "$CODEC" "$CODEC_REVISION" "pytorch_model.bin"
