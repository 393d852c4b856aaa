#!/usr/bin/env bash
# A cluster of three masters on this machine, by commands alone, and what becomes of it: it loses its
# leader and takes it back, a member is replaced, and after all are lost it is restored from a file.
#
# Paste it, or run it: tests/script/cluster.sh [FOLDER]. It needs `kontiki` (or KONTIKI=path/to/it),
# `etcdctl` and `curl` in the path, no root, and no ports of its own. FOLDER is where the masters live (default: a
# temporary one, removed at the end).
set -euo pipefail

kontiki=${KONTIKI:-kontiki}
export ETCDCTL_API=3
folder=${1:-$(mktemp -d)}
keep=$#
mkdir -p "$folder"
declare -A pids

say() { printf '\n== %s\n' "$*"; }

clean() {
  for pid in "${pids[@]}"; do kill -9 "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  if [ "$keep" = 0 ]; then rm -rf "$folder"; fi
}
trap clean EXIT

# Does something again until it works, for a minute.
until_works() {
  local tries=0
  until "$@" >/dev/null 2>&1; do
    tries=$((tries + 1))
    if [ "$tries" -gt 300 ]; then
      echo "this does not work: $*" >&2
      "$@" || true
      for log in "$folder"/*.log; do echo "--- $log" >&2; tail -n 20 "$log" >&2; done
      exit 1
    fi
    sleep 0.2
  done
}

# Starts the master in FOLDER/NAME with flags beside those that all have here, and waits until it serves.
start() {
  local name=$1
  shift
  rm -f "$folder/$name/run/ports.json"
  "$kontiki" start master --data-dir "$folder/$name" --name "$name" --bind-address 127.0.0.1 \
    --api-port 0 --peer-port 0 --store-port 0 "$@" >>"$folder/$name.log" 2>&1 &
  pids[$name]=$!
  until_works test -s "$folder/$name/run/ports.json"
  until_works serves "$name"
}

port() { sed -E "s/.*\"$2\":([0-9]+).*/\1/" "$folder/$1/run/ports.json"; }

serves() {
  [ "$(curl -s --cacert "$folder/$1/pki/cluster/ca.crt" "https://localhost:$(port "$1" api)/readyz")" = ok ]
}

# etcdctl at the store port of a master.
at() {
  local name=$1 pki=$folder/$1/pki/store
  shift
  etcdctl --endpoints "https://localhost:$(port "$name" store)" --cacert "$pki/ca.crt" \
    --cert "$pki/client.crt" --key "$pki/client.key" "$@"
}

join() {
  local through=$1 name=$2
  local token
  token=$("$kontiki" token create --role master --data-dir "$folder/$through")
  start "$name" --join "https://127.0.0.1:$(port "$through" api)" --token "$token"
}

voters() {
  local count
  count=$("$kontiki" member list --data-dir "$folder/$1" | grep -Ec ' (leader|voter) ')
  [ "$count" = "$2" ]
}

leader() { "$kontiki" member list --data-dir "$folder/$1" | awk '$3 == "leader" { print $2 }'; }

lose() {
  kill -9 "${pids[$1]}"
  wait "${pids[$1]}" 2>/dev/null || true
  unset "pids[$1]"
}

holds() { [ "$(at "$1" get "$2" --print-value-only)" = "$3" ]; }

say "one master is a cluster"
start m1
at m1 put first one

say "two more join it"
join m1 m2
join m1 m3
until_works voters m1 3
"$kontiki" member list --data-dir "$folder/m1"

say "the leader is killed; the others go on"
lost=$(leader m1)
lose "$lost"
rest=$(for name in m1 m2 m3; do [ "$name" = "$lost" ] || echo "$name"; done)
one=$(echo "$rest" | head -n 1)
until_works at "$one" put second two
for name in $rest; do until_works holds "$name" second two; done

say "it comes back with what it missed"
start "$lost"
until_works voters "$lost" 3
holds "$lost" second two

say "a member is lost for good, and replaced"
gone=$([ "$one" = m3 ] && echo m2 || echo m3)
lose "$gone"
until_works "$kontiki" member remove "$gone" --data-dir "$folder/$one"
rm -rf "${folder:?}/$gone"
join "$one" m4
until_works voters "$one" 3
holds m4 first one
"$kontiki" status --data-dir "$folder/m4"

say "the store is saved, and then everything is lost"
"$kontiki" snapshot save "$folder/store.kontiki" --data-dir "$folder/m4"
"$kontiki" snapshot inspect "$folder/store.kontiki"
cp -a "$folder/m4/pki" "$folder/saved-pki"
for name in "${!pids[@]}"; do lose "$name"; done
rm -rf "$folder"/m[1-4]

say "it is restored on one machine, and others join"
"$kontiki" snapshot restore "$folder/store.kontiki" --data-dir "$folder/m5" --name m5 \
  --pki "$folder/saved-pki"
start m5
holds m5 first one
holds m5 second two
join m5 m6
join m5 m7
until_works voters m5 3
at m7 put third three
until_works holds m5 third three

say "masters stop in order"
for name in "${!pids[@]}"; do
  kill -TERM "${pids[$name]}"
  wait "${pids[$name]}"
  unset "pids[$name]"
done
say "done"
