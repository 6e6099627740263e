import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { Sandbox } from "@opensandbox/sdk";
import { startWorld, type World } from "./world.ts";

/** The first start of a machine makes its template, which takes minutes on a busy emulated host. */
const createTimeoutMs = 900_000;

suite("what programs find in a sandbox of the default image", () => {
  let world: World;
  let sandbox: Sandbox;

  before(async () => {
    world = await startWorld();
    const signal = AbortSignal.timeout(createTimeoutMs);
    sandbox = await Sandbox.create({ url: world.url, apiKey: world.apiKey, image: "default", signal });
  });
  after(async () => {
    await world?.[Symbol.asyncDispose]();
  });

  /** Runs a script as the user of the sandbox. @returns what it prints */
  async function shell(script: string): Promise<string> {
    const { stdout, stderr, exitCode } = await sandbox.exec.run(["bash", "-ec", script]);
    assert.equal(exitCode, 0, `${stdout}\n${stderr}`);
    return stdout.trim();
  }

  test("limits of processes, files and maps are those of a developer's machine", async () => {
    const text = await shell(`
      cd /proc/sys
      cat /sys/fs/cgroup/sandbox/pids.max kernel/pid_max vm/max_map_count fs/inotify/max_user_watches
      ulimit -n; ulimit -u`);
    const [pids = 0, maxPid, maps, watches, files, processes] = text.split("\n").map(Number);
    assert.ok(pids >= 4096, text);
    assert.deepEqual([maxPid, maps, watches, files, processes], [4_194_304, 1_048_576, 524_288, 65_536, NaN]);
  });

  test("devices of tunnels, user file systems and loops work without a modprobe", async () => {
    await shell(`
      test -r /dev/fuse -a -w /dev/fuse -a -r /dev/net/tun -a -w /dev/net/tun
      sudo ip tuntap add dev tun9 mode tun user sandbox
      ip link show tun9
      truncate -s 8M disk
      mke2fs -qF disk
      sudo mount -o loop disk /mnt
      sudo touch /mnt/file
      sudo umount /mnt`);
  });

  test("modules for networks, firewalls and layered file systems can be loaded, and used", async () => {
    await shell(`
      for module in bridge veth overlay br_netfilter ip_tables iptable_nat nf_tables nft_chain_nat nbd; do
        sudo modprobe "$module"
      done
      sudo ip link add bridge9 type bridge
      sudo ip link add veth9 type veth peer name peer9
      sudo ip link set veth9 master bridge9
      cd /var/tmp
      sudo mkdir lower upper work merged
      sudo mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work merged
      sudo touch merged/file
      test -e upper/file
      sudo umount merged`);
  });

  test("programs that a user installs are on the path", async () => {
    const text = await shell(`
      mkdir -p .local/bin .cargo/bin go/bin
      for directory in .local/bin .cargo/bin go/bin; do
        printf '#!/bin/sh\\necho %s\\n' "$directory" >"$directory/from-\${directory//\\//-}"
        chmod +x "$directory"/*
      done
      from-.local-bin; from-.cargo-bin; from-go-bin
      # What npm install --global does.
      mkdir -p /usr/local/lib/node_modules/tool
      printf '#!/usr/bin/env node\\nconsole.log("npm")\\n' >/usr/local/lib/node_modules/tool/tool.js
      chmod +x /usr/local/lib/node_modules/tool/tool.js
      ln -s ../lib/node_modules/tool/tool.js /usr/local/bin/tool-of-npm
      tool-of-npm
      install -m 755 /bin/true /usr/local/bin/by-the-user`);
    assert.deepEqual(text.split("\n"), [".local/bin", ".cargo/bin", "go/bin", "npm"]);
  });

  test("services start by their scripts and by their units, are shown, and stop", async () => {
    const text = await shell(`
      sudo tee /etc/systemd/system/echo.service >/dev/null <<'END'
[Unit]
Description=A test
[Service]
User=sandbox
WorkingDirectory=/tmp
Environment="GREETING=hello there" NAME=it's
ExecStart=/bin/sh -c 'echo "$GREETING $NAME" >greeting; exec sleep 1000'
END
      systemctl daemon-reload
      systemctl enable --now echo
      for i in $(seq 100); do [ -s /tmp/greeting ] && break; sleep 0.1; done
      cat /tmp/greeting
      stat -c %U /tmp/greeting
      systemctl is-active echo
      systemctl is-enabled echo
      systemctl stop echo
      systemctl is-active echo || echo "code $?"
      systemctl disable echo
      systemctl is-enabled echo || ls /etc/opensandbox/services
      systemctl start no-such-service || echo "code $?"
      sudo tee /etc/init.d/scripted >/dev/null <<'END'
#!/bin/sh
echo "$0 $1"
END
      sudo chmod +x /etc/init.d/scripted
      systemctl restart scripted.service
      sudo service scripted status`);
    assert.deepEqual(text.split("\n"), [
      ...["hello there it's", "sandbox", "active", "enabled", "inactive", "code 3", "disabled", "code 4"],
      ...["/etc/init.d/scripted restart", "/etc/init.d/scripted status"],
    ]);
  });

  test("an enabled service starts at a boot of the machine, and again when it fails", async () => {
    await shell(`
      sudo tee /etc/systemd/system/booted.service >/dev/null <<'END'
[Service]
Restart=on-failure
ExecStart=/bin/sh -c 'cat /proc/self/oom_score_adj >>/tmp/booted; [ "$(wc -l </tmp/booted)" -gt 1 ] || exit 1; exec sleep 1000'
END
      systemctl enable booted`);
    await sandbox.reboot();
    const text = await shell(`
      for i in $(seq 300); do [ "$(cat /tmp/booted 2>/dev/null | wc -l)" = 2 ] && break; sleep 0.1; done
      cat /tmp/booted
      systemctl is-active booted
      sudo systemctl disable --now booted
      ls /etc/opensandbox/services`);
    assert.deepEqual(text.split("\n"), ["0", "0", "active"]);
  });

  test("swap, user namespaces, core dumps, locales, time zones, names and low ports work", async () => {
    const text = await shell(`
      sudo fallocate -l 16M /swap && sudo chmod 600 /swap && sudo mkswap -q /swap && sudo swapon /swap
      grep -c /swap /proc/swaps
      sudo swapoff /swap
      unshare --user --map-root-user --mount --pid --fork id -u
      cd /tmp
      (ulimit -c unlimited; sh -c 'kill -SEGV $$') || test -s core
      LC_ALL=en_US.UTF-8 date -u -d @0 +%A
      TZ=Europe/Berlin date -d @0 +%H
      ping -c 1 -W 5 "$(hostname)" >/dev/null
      getent hosts "$(hostname)" >/dev/null
      python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 80)); print(s.getsockname()[1])'`);
    assert.deepEqual(text.split("\n"), ["1", "0", "Thursday", "01", "80"]);
  });

  test("code runs in a context that keeps its variables, and the SDK has its results", async () => {
    const pieces: string[] = [];
    const first = await sandbox.code.run("total = 40\nprint('counting')\ntotal + 2", {
      onStdout: (text) => void pieces.push(text),
    });
    assert.deepEqual(
      [first.text, first.stdout, pieces.join(""), first.error],
      ["42", "counting\n", "counting\n", undefined],
    );
    const { error } = await sandbox.code.run("total / 0");
    assert.equal(error?.name, "ZeroDivisionError");
    const context = await sandbox.code.createContext({ language: "bash", cwd: "/tmp" });
    assert.deepEqual([context.language, context.cwd], ["bash", "/tmp"]);
    assert.equal((await sandbox.code.run("pwd", { contextId: context.id })).stdout, "/tmp\n");
    const left = new AbortController();
    const endless = sandbox.code.run("import time\nprint('begun')\nwhile True: time.sleep(0.1)", {
      onStdout: () => left.abort(),
      signal: left.signal,
    });
    await assert.rejects(endless);
    assert.equal((await sandbox.code.run("total")).text, "40");
    await sandbox.code.removeContext(context.id);
    assert.deepEqual(
      (await sandbox.code.listContexts()).map(({ language }) => language),
      ["python"],
    );
  });
});
