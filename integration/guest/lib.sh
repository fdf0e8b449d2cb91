# shellcheck shell=bash
# Shared by the checks that boot a guest; sourced after ../lib.sh.

want cpio e2fsck gzip mkfs.ext4 modprobe nbd-client python3 qemu-system-x86_64 resize2fs
[[ -x /bin/busybox ]] || skip "busybox (static) is not installed"
# A small kernel with ext4; the newest of them.
KERNEL=$(compgen -G '/boot/vmlinuz-*cloud*' | sort -V | tail -n 1) || skip "no kernel for the guest: /boot/vmlinuz-*cloud*"
[[ -r $KERNEL ]] || skip "$KERNEL is not readable"
"$ROOT/integration/guest/initrd" "$TMP/initrd" "$KERNEL" || fail "no initrd for the guest"
mkdir -p "$TMP/extra"

# boot JOB ARGS QEMU-ARG...: starts a guest with ARGS on the kernel's command line; $GUEST is its id, $CONSOLE its
# console. The files in $TMP/extra travel in a second archive behind the first.
BOOTS=0
boot() {
  local job=$1 args=$2
  shift 2
  BOOTS=$((BOOTS + 1))
  CONSOLE=$LOGS/guest.$BOOTS.$job
  : >"$CONSOLE"
  (cd "$TMP/extra" && find . -type f -print0 | cpio -0 -o -H newc --quiet) | gzip -1 | cat "$TMP/initrd" - >"$TMP/initrd.$BOOTS"
  # Plain emulation, because it works wherever QEMU does.
  background "qemu.$BOOTS" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -m 512 -smp 1 -nodefaults -display none \
    -no-reboot -serial "file:$CONSOLE" -kernel "$KERNEL" -initrd "$TMP/initrd.$BOOTS" \
    -append "console=ttyS0 quiet panic=-1 mitigations=off nokaslr tsc=unstable no_timer_check job=$job $args" "$@"
  GUEST=$PID
}
console() { tr -d '\r' 2>/dev/null <"$CONSOLE" || true; }
said() { console | grep -aqE "$1"; }
# result JOB: waits for the guest's verdict, for $RESULT_SECONDS (120), which must be ok.
result() {
  local limit=$((SECONDS + ${RESULT_SECONDS:-120}))
  until said "^RESULT $1 "; do
    alive "$GUEST" || { sleep 0.5; said "^RESULT $1 " || fail "the guest ended: $(console | tail -n 20)"; }
    ((SECONDS < limit)) || fail "the guest says nothing: $(console | tail -n 20)"
    sleep 0.2
  done
  said "^RESULT $1 ok" || fail "the guest found: $(console | tail -n 30)"
}
powered_off() { finish "$GUEST" 60 || fail "the guest did not power off"; }
# qmp COMMAND [ARGUMENTS]: asks QEMU, whose -qmp is the socket $TMP/qmp; its answer, or an error.
qmp() {
  python3 - "$TMP/qmp" "$1" "${2:-{\}}" <<'PY'
import json, socket, sys
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); f = s.makefile("rw")
json.loads(f.readline())
def ask(name, arguments):
    f.write(json.dumps({"execute": name, "arguments": arguments}) + "\n"); f.flush()
    while True:
        answer = json.loads(f.readline())
        if "return" in answer or "error" in answer:
            return answer
ask("qmp_capabilities", {})
answer = ask(sys.argv[2], json.loads(sys.argv[3]))
print(json.dumps(answer))
sys.exit("error" in answer)
PY
}
