# shellcheck shell=bash disable=SC2034
# Shared by the scripts in integration/checks: `source "${BASH_SOURCE%/*}/../lib.sh"` comes first.
#
# A check gets its own folder $TMP and its own log folder $LOGS, and is cleaned up however it ends: what it started
# is stopped by process id, what it mounted is unmounted, loop devices over its files are detached, $TMP is removed
# (KEEP=1 keeps it). It passes with exit 0, is skipped with `skip REASON`, and fails with anything else.
# Each check can be run alone, after `cargo build --release`. Source, don't execute.

set -euo pipefail
shopt -s inherit_errexit

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
WINDLASS=${WINDLASS_BIN:-$ROOT/target/release/windlass}
# Short, because a socket's path may have no more than 107 bytes.
TMP=$(mktemp -d "${WINDLASS_TMP:-/tmp}/wl.XXXXXX")
LOGS=${WINDLASS_LOGS:-$TMP/logs}
mkdir -p "$LOGS"
export WINDLASS_HOME=$TMP/home
# What the user's shell may hold must not reach a check.
unset WINDLASS_MEMORY WINDLASS_CACHE AWS_PROFILE AWS_REGION AWS_ENDPOINT_URL http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY
exec </dev/null

STARTED=()  # process ids that cleanup ends
AT_EXIT=()  # commands that cleanup runs first, the last one first
SECONDS=0

# ---- saying and judging -------------------------------------------------------------------------------------------

say() { printf '%4ds  %s\n' "$SECONDS" "$*"; }
fail() { printf '%4ds  FAIL: %s\n' "$SECONDS" "$*" >&2; exit 1; }
# Skipping is for a machine that lacks something; in CI nothing may be skipped.
skip() {
  [[ ${CI:-} != true ]] || fail "would be skipped, which CI does not allow: $*"
  printf 'SKIP: %s\n' "$*"
  exit 77
}
# want TOOL...: every tool is there, or the check is skipped.
want() {
  local tool
  for tool; do command -v "$tool" >/dev/null || skip "$tool is not installed"; done
}
# want_root WHY
want_root() { ((EUID == 0)) || skip "needs root: $1"; }
want_fuse() { [[ -c /dev/fuse && -r /dev/fuse ]] || skip "there is no usable /dev/fuse"; }

# check DESCRIPTION COMMAND...: the command must succeed.
check() {
  local what=$1 rc=0
  shift
  "$@" || rc=$?
  ((rc == 0)) || fail "$what (exit $rc: $*)"
  say "$what"
}
# equal DESCRIPTION WANTED SEEN
equal() { [[ $2 == "$3" ]] || fail "$1: wanted '$2', saw '$3'"; say "$1: $3"; }
# exits CODE COMMAND...: the command's exit code is this; its output goes to $OUT and $ERR (text).
exits() {
  local wanted=$1 rc=0
  shift
  "$@" >"$TMP/.out" 2>"$TMP/.err" || rc=$?
  OUT=$(<"$TMP/.out") ERR=$(<"$TMP/.err")
  [[ $rc == "$wanted" ]] || fail "wanted exit $wanted, saw $rc from: $*"$'\n'"stdout: ${OUT:0:2000}"$'\n'"stderr: ${ERR:0:2000}"
}
# says PATTERN: the last `exits` said so on stderr (extended regex, any case).
says() { grep -qiE -- "$1" <<<"$ERR" || fail "stderr does not say '$1' but: $ERR"; }
# long USUAL LONG: how much of it, usually and with `integration/run --long`.
long() { if [[ -n ${WINDLASS_LONG:-} ]]; then echo "$2"; else echo "$1"; fi; }
# wait_for SECONDS DESCRIPTION COMMAND...: until the command succeeds.
wait_for() {
  local limit=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < limit)) || fail "waited in vain: $what"
    sleep 0.1
  done
}

# ---- processes ----------------------------------------------------------------------------------------------------

# background NAME COMMAND...: starts it, output in $LOGS/NAME.log, its id in $PID; ended at exit.
background() {
  local name=$1
  shift
  "$@" >>"$LOGS/$name.log" 2>&1 &
  PID=$!
  ours "$PID"
}
# ours PID: a child that cleanup ends. Waits until it is itself: a signal that meets the shell's copy between fork and
# exec is lost, or runs the shell's traps.
ours() {
  local i
  STARTED+=("$1")
  for ((i = 0; i < 20; i++)); do
    [[ $(readlink "/proc/$1/exe") == "$(readlink "/proc/$$/exe")" ]] || break
    sleep 0.01
  done
}
alive() { kill -0 "$1" 2>/dev/null; }
# finish PID [SECONDS=30]: waits for a child of ours; its exit code, or 124 when it goes on.
finish() {
  local limit=$((SECONDS + ${2:-30})) rc=0
  while alive "$1"; do
    ((SECONDS < limit)) || return 124
    sleep 0.05
  done
  wait "$1" 2>/dev/null || rc=$?
  forget "$1"
  return "$rc"
}
# Its id may be another process's soon: no longer ours to end.
forget() {
  local kept=() pid
  for pid in "${STARTED[@]}"; do [[ $pid == "$1" ]] || kept+=("$pid"); done
  STARTED=("${kept[@]}")
}
# end PID [SIGNAL=TERM] [SECONDS=30]: signals a child of ours and waits; killed when it goes on.
end() {
  kill -"${2:-TERM}" "$1" 2>/dev/null || true
  local rc=0
  finish "$1" "${3:-30}" || rc=$?
  if ((rc == 124)); then
    kill -KILL "$1" 2>/dev/null || true
    finish "$1" 30 || true
    say "process $1 went on after ${2:-TERM} and was killed"
  fi
  return "$rc"
}
# at_exit COMMAND...: cleanup runs it.
at_exit() { AT_EXIT+=("$(printf '%q ' "$@")"); }

cleanup() {
  local rc=$? i pid dir loop
  trap - EXIT
  ((BASHPID == $$)) || exit "$rc"
  trap '' INT TERM
  set +e
  for ((i = ${#AT_EXIT[@]} - 1; i >= 0; i--)); do eval "${AT_EXIT[i]}" >>"$LOGS/cleanup.log" 2>&1; done
  # Mounts before their servers, the deepest first; loop devices may lie between two.
  for i in 1 2 3; do
    while read -r dir; do
      umount "$dir" 2>>"$LOGS/cleanup.log" || fusermount3 -u "$dir" 2>>"$LOGS/cleanup.log"
    done < <(mounts_below_tmp)
    for loop in $(losetup -nO NAME,BACK-FILE 2>/dev/null | awk -v t="$TMP/" 'index($2, t) == 1 {print $1}'); do losetup -d "$loop"; done
    [[ -n $(mounts_below_tmp) ]] || break
    sleep 0.5
  done
  for pid in "${STARTED[@]}"; do kill -TERM "$pid" 2>/dev/null; done
  for pid in "${STARTED[@]}"; do
    for ((i = 0; i < 50; i++)); do alive "$pid" || break; sleep 0.1; done
    alive "$pid" && kill -KILL "$pid"
    wait "$pid"
  done 2>/dev/null
  while read -r dir; do umount -l "$dir" 2>>"$LOGS/cleanup.log" || fusermount3 -uz "$dir"; done < <(mounts_below_tmp)
  cd /
  if [[ -n ${KEEP:-} ]]; then echo "kept: $TMP" >&2; else rm -rf --one-file-system "$TMP"; fi
  exit "$rc"
}
mounts_below_tmp() { awk -v t="$TMP/" 'index($2, t) == 1 {print length($2), $2}' /proc/self/mounts | sort -rn | cut -d' ' -f2-; }
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# ---- Windlass -----------------------------------------------------------------------------------------------------

# wl ARGS...: one command on the current $WINDLASS_HOME (`WINDLASS_HOME=$TMP/other wl …` for another).
wl() { "$WINDLASS" "$@"; }

# serve [ARGS...]: `windlass serve` on $WINDLASS_HOME until `ready`; $SERVE is its id, $NBD what it printed as its
# address (HOST:PORT or unix:PATH). Its stdout is in $LOGS/serve-HOME.N.out, its log beside it as .log.
SERVES=0
serve() {
  local out
  SERVES=$((SERVES + 1))
  out=$LOGS/serve-$(basename "$WINDLASS_HOME").$SERVES
  "$WINDLASS" serve "$@" >"$out.out" 2>"$out.log" &
  SERVE=$!
  ours "$SERVE"
  local limit=$((SECONDS + ${SERVE_SECONDS:-60}))
  until grep -qx ready "$out.out"; do
    alive "$SERVE" || fail "windlass serve ended before it was ready: $(tail -n 5 "$out.log")"
    ((SECONDS < limit)) || fail "windlass serve is not ready after ${SERVE_SECONDS:-60} s: $(tail -n 5 "$out.log")"
    sleep 0.05
  done
  NBD=$(sed -n 's/^nbd //p' "$out.out" | head -n 1)
}
# serve_stop [SECONDS=60]: SIGTERM, which drains; it must end by itself with exit 0.
serve_stop() {
  local rc=0
  end "$SERVE" TERM "${1:-60}" || rc=$?
  ((rc == 0)) || fail "windlass serve ended with $rc after SIGTERM: $(tail -n 5 "$LOGS/serve-$(basename "$WINDLASS_HOME").$SERVES.log")"
}
# serve_kill: SIGKILL, as a power cut of the process.
serve_kill() { end "$SERVE" KILL 30 || true; }

# loop_over FILE [OPTIONS...]: makes a loop device, and prints it. The kernel keeps with a device node that an earlier user made it
# read-only.
loop_over() {
  local device
  device=$(losetup --find --show "${@:2}" "$1")
  blockdev --setrw "$device"
  printf '%s\n' "$device"
}

# nbd_uri POOL/VOLUME: where the running daemon exports it.
nbd_uri() {
  case $NBD in
  unix:*) printf 'nbd+unix:///%s?socket=%s\n' "$1" "${NBD#unix:}" ;;
  *) printf 'nbd://%s/%s\n' "$NBD" "$1" ;;
  esac
}

# example NAME: the path of a program of the workspace's examples.
example() {
  local file=${CARGO_TARGET_DIR:-$ROOT/target}/release/examples/$1
  [[ -x $file ]] || fail "there is no $file: cargo build --release --examples"
  printf '%s\n' "$file"
}

# test_program NAME: the path of the program of tests/NAME, the newest (`# needs: test-build` in the check's head).
test_program() {
  local file newest=
  for file in "${CARGO_TARGET_DIR:-$ROOT/target}/release/deps/$1"-*; do
    [[ ! -x $file || $file -ot ${newest:-$file} ]] || newest=$file
  done
  [[ -n $newest ]] || fail "there is no test program $1: cargo test --release --workspace --test $1 --no-run"
  printf '%s\n' "$newest"
}

# folder_stores DIR N: makes DIR/s1 … DIR/sN; the --store arguments are in the array $STORES.
folder_stores() {
  local i
  STORES=()
  for ((i = 1; i <= $2; i++)); do
    mkdir -p "$1/s$i"
    STORES+=(--store "file://$1/s$i")
  done
}
# away DIR N... / back DIR N...: moves stores of `folder_stores` out of their place and into it again.
away() { local dir=$1 n; shift; for n; do mv "$dir/s$n" "$dir/away-s$n"; done; }
back() { local dir=$1 n; shift; for n; do mv "$dir/away-s$n" "$dir/s$n"; done; }
pending() { wl pool status "$1" --json | jq -e .pending_shards; }
damaged() { wl pool status "$1" --json | jq -e .damaged_shards; }
nothing_pending() { [[ $(pending "$1") == 0 ]]; }
# settled POOL [SECONDS=60]: waits until no shard is pending.
settled() { wait_for "${2:-60}" "nothing pending in pool $1" nothing_pending "$1"; }

# without_orphans POOL [SECONDS=90]: waits until what a killed daemon stored, and no head names, is deleted: that is not
# before the next owner has waited for the pool's grace.
orphans() { { wl pool scrub "$1" --json || true; } | jq -re '.orphans | length'; }
no_orphans() { [[ $(orphans "$1") == 0 ]]; }
without_orphans() { wait_for "${2:-90}" "no orphans in pool $1" no_orphans "$1"; }

# stamps ARGS...: the witness of integration/stamps.
stamps() { "$ROOT/integration/stamps" "$@"; }
# fio_verify URI NAME [ARGS...]: random writes over NBD, each block read back and compared; fio's report in $LOGS.
fio_verify() {
  local uri=$1 name=$2
  shift 2
  fio --name="$name" --ioengine=nbd --uri="$uri" --rw=randwrite --bsrange=4k-64k --iodepth=8 --verify=crc32c \
    --verify_backlog=512 --verify_fatal=1 --verify_state_save=0 --randrepeat=0 --output="$LOGS/fio-$name.txt" "$@"
}
# file_tour DIR [FOLDERS_STAY]: what programs do with files, on a mounted bucket. With a second argument the server
# goes on listing folders whose last object is gone.
file_tour() {
  local d=$1/tour i
  mkdir "$d" "$d/sub"
  printf 'one\n' >"$d/a"
  printf 'two\n' >>"$d/a"
  equal "create and append" $'one\ntwo' "$(<"$d/a")"
  printf 'new\n' >"$d/a"
  equal "overwrite" new "$(<"$d/a")"
  head -c 20000000 /dev/urandom >"$TMP/big"
  cp "$TMP/big" "$d/sub/big"
  check "20 MB compare equal" cmp "$TMP/big" "$d/sub/big"
  check "a read in the middle" cmp <(tail -c +12345679 "$TMP/big" | head -c 70000) \
    <(dd if="$d/sub/big" bs=1M iflag=skip_bytes,count_bytes skip=12345678 count=70000 status=none)
  truncate -s 5000000 "$TMP/big" "$d/sub/big"
  check "truncated" cmp "$TMP/big" "$d/sub/big"
  printf 'patch' | tee >(dd of="$TMP/big" bs=1 seek=4000000 conv=notrunc status=none) |
    dd of="$d/sub/big" bs=1 seek=4000000 conv=notrunc status=none
  wait_for 5 "both are patched" cmp "$TMP/big" "$d/sub/big"
  mv "$d/a" "$d/b"
  equal "a file renamed" "b sub" "$(ls -m "$d" | tr -d ,)"
  mv "$d/sub" "$d/dir"
  check "a folder renamed" cmp "$TMP/big" "$d/dir/big"
  exits 1 rmdir "$d/dir"
  says "not empty"
  for ((i = 0; i < 100; i++)); do echo "$i" >"$d/dir/f$i"; done
  equal "100 files listed" 101 "$(ls "$d/dir" | wc -l)"
  equal "size shown" 5000000 "$(stat -c %s "$d/dir/big")"
  rm "$d/dir"/f*
  rm "$d/dir/big"
  rmdir "$d/dir"
  exits 1 cat "$d/dir/big"
  says "no such file"
  [[ -n ${2:-} ]] || equal "what is left" b "$(ls "$d")"
}

# ---- other parts --------------------------------------------------------------------------------------------------

# free_port [SPAN]: a TCP port on loopback that can be listened on, and so can port + SPAN. Both are below the ports that the
# kernel gives to connections (32768 and above): one of those is taken, though nobody listens on it.
free_port() {
  local port span=${1:-0}
  while :; do
    port=$((10000 + (RANDOM * 32768 + RANDOM) % (22700 - span)))
    if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null &&
      { ((span == 0)) || ! (exec 3<>"/dev/tcp/127.0.0.1/$((port + span))") 2>/dev/null; }; then
      echo "$port"
      return
    fi
  done
}

# s3 ARGS...: one signed request with curl.
s3() {
  curl -sS --fail-with-body --max-time 30 --aws-sigv4 aws:amz:us-east-1:s3 -H x-amz-content-sha256:UNSIGNED-PAYLOAD \
    --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" "$@"
}
# s3_bucket NAME: makes a bucket.
s3_bucket() { s3 -o "$LOGS/s3.log" -X PUT "$S3_ENDPOINT/$1"; }
# s3_query: what a store's URL needs after its prefix.
s3_query() { printf 'endpoint=%s&region=us-east-1\n' "$S3_ENDPOINT"; }

# seaweed [DIR=$TMP/weed]: starts SeaweedFS with data in DIR, whose bucket `open` anybody may use; $S3_ENDPOINT, credentials in the environment, $WEED its id,
# $WEED_PORTS what `seaweed_start` needs to start it once more.
seaweed() {
  seaweed_begin "$@"
  seaweed_ready
}
# seaweed_begin [DIR], seaweed_ready: the same in two steps, for who has something to do while it starts.
seaweed_begin() {
  local dir=${1:-$TMP/weed}
  export AWS_ACCESS_KEY_ID=testkey AWS_SECRET_ACCESS_KEY=testsecret123 AWS_REGION=us-east-1 AWS_EC2_METADATA_DISABLED=true
  mkdir -p "$dir"
  cat >"$dir.json" <<JSON
{"identities":[{"name":"t","credentials":[{"accessKey":"$AWS_ACCESS_KEY_ID","secretKey":"$AWS_SECRET_ACCESS_KEY"}],
"actions":["Admin","Read","Write","List","Tagging"]},
{"name":"anonymous","actions":["Read:open","Write:open","List:open"]}]}
JSON
  # Each port has a gRPC twin 10,000 above it.
  WEED_PORTS=()
  while ((${#WEED_PORTS[@]} < 4)); do WEED_PORTS+=("$(free_port 10000)"); done
  seaweed_start "$dir" "${WEED_PORTS[@]}"
  export S3_ENDPOINT=http://127.0.0.1:${WEED_PORTS[3]}
}
seaweed_ready() {
  wait_for 60 "SeaweedFS takes a bucket ($LOGS/seaweed.log)" seaweed_answers
  alive "$WEED" || fail "SeaweedFS has ended: $(tail -n 5 "$LOGS/seaweed.log")"
  wait_for 60 "SeaweedFS takes an object" s3 -X PUT --data-binary ready "$S3_ENDPOINT/ready/object"
}
# seaweed_answers: it takes a bucket, or will never take one.
seaweed_answers() { ! alive "$WEED" || s3_bucket ready; }
# seaweed_start DIR PORT...: the server alone. Each bucket takes seven volumes, each of volumeSizeLimitMB, of the disk's
# free space. With volumes of 256 MiB a check with ten buckets needs 18 GB free, and gets status 500 on a smaller disk.
seaweed_start() {
  local weed=${WEED_BIN:-$ROOT/target/venv/bin/weed}
  [[ -x $weed ]] || weed=$(command -v weed) || skip "SeaweedFS is not installed (integration/run does)"
  background seaweed "$weed" server -dir="$1" -ip=127.0.0.1 -ip.bind=127.0.0.1 -filer -s3 -s3.config="$1.json" \
    -master.port="$2" -volume.port="$3" -filer.port="$4" -s3.port="$5" \
    -s3.port.iceberg=0 -s3.port.lance=0 -volume.max=0 -master.volumeSizeLimitMB=64 -master.electionTimeout=1s
  WEED=$PID
}
