#!/usr/bin/env bash
# The first process of a machine of the lab, in namespaces of its own: a home, a /tmp, a host name
# and an sshd, all of it gone when this process is.
# node.sh NAME ADDRESS LAB KEPT...  where KEPT are paths that it sees as the machine below does
set -euo pipefail
name=$1 address=$2 lab=$3
shift 3
own=$lab/$name
hostname "$name"
mount --make-rprivate /
for kept in "$lab" "$@"; do  # what of them is under /tmp has to stay, whatever else is there
    [[ $kept == /tmp/* ]] || continue
    mkdir -p "$own$kept"
    mount --rbind "$kept" "$own$kept"
done
mkdir -p "$own/tmp"
mount --rbind "$own/tmp" /tmp
mount --bind "$own/home" "$lab/home"
mount -t tmpfs -o size=1g tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mkdir -p /run/sshd
sed "s#^root:.*#root:x:0:0:root:$lab/home:/bin/bash#" /etc/passwd >"$own/passwd"
mount --bind "$own/passwd" /etc/passwd
# As Debian does it: the machine's own name is no address that others could use.
printf '127.0.0.1 localhost\n127.0.1.1 %s\n' "$name" >"$own/hosts"
mount --bind "$own/hosts" /etc/hosts
cat >"$own/sshd_config" <<END
ListenAddress $address
HostKey $lab/keys/host
AuthorizedKeysFile $lab/keys/client.pub
PasswordAuthentication no
StrictModes no
PidFile none
MaxStartups 50
MaxSessions 50
END
/usr/sbin/sshd -D -e -f "$own/sshd_config" &
touch "$own/ready"
while true; do wait || true; sleep 1; done  # the parent of every orphan
