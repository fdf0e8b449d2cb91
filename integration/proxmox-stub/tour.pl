#!/usr/bin/perl -T
# Loads the plugin as PVE does, and calls every method of it against a daemon: tour.pl HOME POOL STORAGE_CFG TMP
use strict;
use warnings;

use IO::Socket::UNIX ();
use JSON::PP         qw(decode_json encode_json);
use Test::More;
use Time::HiRes qw(sleep time);

# As PVE's daemons, which run with -T too.
$ENV{PATH} = '/usr/sbin:/usr/bin:/sbin:/bin';
delete @ENV{qw(IFS CDPATH ENV BASH_ENV)};

my ($home, $pool, $storage_cfg, $tmp) = map { m!^([\w./-]+)\z! ? $1 : die "odd argument $_\n" } @ARGV;

use PVE::QemuServer::Monitor;
use PVE::Storage;
my $PLUGIN = 'PVE::Storage::Custom::WindlassPlugin';

# What storage.cfg says, in PVE's form.
my $cfg;

# ---- helpers ----------------------------------------------------------------------------------------------------

sub ask { return PVE::Storage::call($cfg, @_) }
sub alloc { return PVE::Storage::vdisk_alloc($cfg, 'wl', @_) }
sub free { return PVE::Storage::vdisk_free($cfg, @_) }
sub path_of { return PVE::Storage::path($cfg, @_) }
sub roll_back { return PVE::Storage::volume_snapshot_rollback($cfg, @_) }

# What a program prints. It must succeed.
sub output {
    my (@cmd) = @_;

    open(my $pipe, '-|', @cmd) or die "$cmd[0]: $!\n";
    my $text = do { local $/; <$pipe> } // '';
    close($pipe) or die "@cmd: exit " . ($? >> 8) . ": $text\n";
    return $text;
}

# That it dies with a sentence of one line, in PVE's manner.
sub refuses {
    my ($what, $pattern, $code) = @_;

    my $done = eval { $code->(); 1 };
    my $said = $@;
    return fail("$what: it was done") if $done;
    like($said, $pattern, "$what: " . $said =~ s/\n\z//r);
    # But for that of a name in it.
    unlike($said =~ s/\n(?=')//r, qr/ at \S+ line \d+|\n./, "$what: a line without a place in the source");
    return;
}

# Writes and reads by qemu-io, over the path that PVE gives to QEMU's tools.
sub qemu_io {
    my ($path, @commands) = @_;
    return output('qemu-io', '-f', 'raw', (map { ('-c', $_) } @commands), $path);
}

sub fill {
    my ($volid, $byte) = @_;
    return qemu_io(path_of($volid), "write -P $byte 0 1M", 'flush');
}

sub holds {
    my ($volid, $byte, $what, $snap) = @_;

    my $path = path_of($volid, $snap);
    my $said = eval { output('qemu-io', '-r', '-f', 'raw', '-c', "read -P $byte 0 1M", $path) } // $@;
    return ok($said !~ m/verification failed|error|exit/i && $said =~ m/read 1048576/, $what) || diag($said);
}

sub volids {
    my (@args) = @_;
    return join(' ', map { $_->{volid} } PVE::Storage::vdisk_list($cfg, 'wl', @args)->@*);
}

# ---- loading ----------------------------------------------------------------------------------------------------

is(PVE::Storage::load($PLUGIN), '', 'PVE 9.2 (API 15) loads the plugin without a warning');
PVE::Storage::Plugin->init();
for my $case ([10, 1], [11, 2], [12, 3], [13, 4], [14, 5]) {
    local ($PVE::Storage::VERSION_HERE, $PVE::Storage::AGE) = @$case;
    is(PVE::Storage::check_api($PLUGIN), '', "so does API $case->[0]");
}
{
    local ($PVE::Storage::VERSION_HERE, $PVE::Storage::AGE) = (16, 7);
    like(PVE::Storage::check_api($PLUGIN), qr/older storage API/, 'a later API that bears 15 warns');
    $PVE::Storage::AGE = 0;
    refuses('a later API that does not', qr/too old/, sub { PVE::Storage::check_api($PLUGIN) });
    $PVE::Storage::VERSION_HERE = 9;
    refuses('PVE 7.0', qr/newer than current/, sub { PVE::Storage::check_api($PLUGIN) });
}

my $text = do { local (@ARGV, $/) = ($storage_cfg); <> };
$cfg = PVE::Storage::Plugin->parse_config($text);
my $scfg = $cfg->{ids}->{wl};
is($scfg->{pool}, $pool, 'storage.cfg');
for my $case (
    ["windlass: x\n content images", qr/required option 'pool'/, 'no pool'],
    ["windlass: x\n pool a\n content rootdir", qr/content type 'rootdir'/, 'containers'],
    ["windlass: x\n pool a\n windlass-home var/lib", qr/regex pattern/, 'a home that is no absolute path'],
    ["windlass: x\n pool a\n windlass-nbd /run/a,b.sock", qr/regex pattern/, 'a socket with a comma'],
    ["windlass: x\n pool a\n krbd 1", qr/unexpected property/, 'a property of others'],
) {
    my ($bad, $pattern, $what) = @$case;
    refuses("storage.cfg with $what", $pattern, sub { PVE::Storage::Plugin->parse_config($bad) });
}
for my $bad ('UPPER', 'a/b', '', "tank\n") {
    refuses('a pool by the name ' . $bad =~ s/\n/\\n/r,
        qr/no name of a Windlass pool/, sub { $PLUGIN->status('x', { %$scfg, pool => $bad }) });
}

# ---- the storage ------------------------------------------------------------------------------------------------

PVE::Storage::activate_storage($cfg, 'wl');
pass('the storage is activated');
my ($total, $free, $used, $active) = PVE::Storage::storage_info($cfg, 'wl');
ok($active && $total > 0 && $free > 0 && $total == $free + $used, "status: $free of $total free");
like($PLUGIN->get_identity($scfg, 'wl'), qr/^\S{8,}$/, 'its identity is the pool\'s id');
refuses('a pool that is not known here',
    qr/does not know pool 'nowhere'.*pool add/, sub { $PLUGIN->activate_storage('x', { %$scfg, pool => 'nowhere' }) });
{
    my $without = { ids => { x => { %$scfg, 'windlass-home' => "$tmp/none" } } };
    refuses('a daemon that does not run',
        qr/cannot reach the Windlass daemon.*none\/control.sock/,
        sub { PVE::Storage::activate_storage($without, 'x') });
}
is_deeply(PVE::Storage::vdisk_list($cfg, 'wl'), [], 'nothing is listed yet');

# ---- names ------------------------------------------------------------------------------------------------------

my $names = sub { join(' ', map { $_ // '-' } $PLUGIN->parse_volname($_[0])) };
is($names->('vm-100-disk-0'), 'images vm-100-disk-0 100 - - - raw', 'a disk');
is($names->('base-100-disk-0'), 'images base-100-disk-0 100 - - base raw', 'a template');
is($names->('base-100-disk-0/vm-101-disk-1'), 'images vm-101-disk-1 101 base-100-disk-0 100 - raw', 'a linked clone');
is($names->('base-9-a/base-10-b'), 'images base-10-b 10 base-9-a 9 base raw', 'a template that is a linked clone');
is($names->('vm-7-state-Before_Update'), 'images vm-7-state-Before_Update 7 - - - raw', 'a saved state');
is($names->('vm-7-cloudinit'), 'images vm-7-cloudinit 7 - - - raw', 'a drive of cloud-init');
for my $bad (
    'disk', 'vm-100', 'vm-100-', 'vm-x-disk-0', 'subvol-100-disk-0', 'vm-100-disk-0.raw', 'vm-100-a b', 'vm-100-a@b',
    'vm-100-a/b', '../vm-100-a', 'vm-1-a/vm-2-b', "vm-100-a\n", 'vm-100-a,b', 'vm-100-a;b', 'vm-100-ä', 'vm-100-a:b',
    ''
) {
    refuses("the name '" . $bad =~ s/\n/\\n/r . q('), qr/unable to parse windlass volume name/,
        sub { $PLUGIN->parse_volname($bad) });
}
refuses('a name of 70 characters', qr/too long/, sub {
    alloc(100, 'raw', 'vm-100-state-' . 'a' x 57, 1024);
});

# ---- volumes ----------------------------------------------------------------------------------------------------

my $disk = alloc(100, undef, undef, 64 * 1024);
is($disk, 'wl:vm-100-disk-0', 'alloc finds the first free name');
is(alloc(100, 'raw', '', 528), 'wl:vm-100-disk-1', 'and the next one; 528 KiB as EFI has');
my $state = alloc(100, 'raw', 'vm-100-state-Before_Update', 4096);
is($state, 'wl:vm-100-state-Before_Update', 'a state with capitals');
is(alloc(1000, 'raw', 'vm-1000-cloudinit', 4096), 'wl:vm-1000-cloudinit', 'of another VM');
refuses('a name twice', qr/exists/, sub { alloc(100, 'raw', 'vm-100-disk-0', 1024) });
refuses('another VM\'s name', qr/illegal name 'vm-101-x' - should be 'vm-100-\*'/,
    sub { alloc(100, 'raw', 'vm-101-x', 1024) });
refuses('qcow2', qr/unsupported format 'qcow2'/, sub { alloc(100, 'qcow2', undef, 1024) });
refuses('more than 64 TiB', qr/size/, sub { alloc(100, 'raw', undef, 65 << 30) });
refuses('a setting that is none', qr/bogus/, sub {
    $PLUGIN->alloc_image('wl', { %$scfg, 'windlass-settings' => 'bogus=1' }, 100, 'raw', undef, 1024);
});

is(volids(), "wl:vm-100-disk-0 wl:vm-100-disk-1 $state wl:vm-1000-cloudinit", 'list');
is(volids(1000), 'wl:vm-1000-cloudinit', 'list of one VM');
is(volids(undef, [$disk, 'wl:vm-9-none']), $disk, 'list of some');
my ($listed) = PVE::Storage::vdisk_list($cfg, 'wl', undef, [$disk])->@*;
is("$listed->{format} $listed->{size} $listed->{vmid}", 'raw ' . (64 << 20) . ' 100', 'what is listed of a disk');
ok(abs($listed->{ctime} - time()) < 600, 'when it was made');

ask('activate_volume', $disk, undef, {});
fill($disk, 11);
my @size = ask('volume_size_info', $disk);
is_deeply([@size[0, 1, 3]], [64 << 20, 'raw', undef], 'size');
cmp_ok($size[2], '>=', 1 << 20, 'what it uses');
is(ask('volume_size_info', 'wl:vm-100-disk-1') + 0, 540672, 'size alone');

ask('volume_resize', $disk, 96 << 20, 0);
my $seen = decode_json(output('qemu-img', 'info', '--output=json', '-f', 'raw', path_of($disk)));
is($seen->{'virtual-size'}, 96 << 20, 'qemu-img reads path(), and sees the new size');
refuses('a smaller size', qr/copy/, sub { ask('volume_resize', $disk, 32 << 20, 0) });
refuses('the size of a snapshot', qr/snapshot/, sub { ask('volume_resize', $disk, 1 << 30, 0, 's') });
refuses('a volume that is not there', qr/vm-100-disk-7/, sub { ask('volume_size_info', 'wl:vm-100-disk-7') });
refuses('activating it', qr/vm-100-disk-7/, sub { ask('activate_volume', 'wl:vm-100-disk-7', undef, {}) });

# ---- snapshots --------------------------------------------------------------------------------------------------

ask('volume_snapshot', $disk, 'clean');
fill($disk, 22);
ask('volume_snapshot', $disk, 'Before_Update-2');
fill($disk, 33);
my $snaps = ask('volume_snapshot_info', $disk);
is(join(' ', sort keys %$snaps), 'Before_Update-2 clean', 'snapshots, capitals too');
{
    no warnings 'once';
    my @said;
    local $SIG{__WARN__} = sub { push @said, @_ };
    local $PVE::Storage::Custom::WindlassPlugin::STORED_WITHIN = 0;
    ask('volume_snapshot', $disk, 'late');
    like("@said", qr/'late' of 'vm-100-disk-0' is taken, and will be in the pool/, 'the pool is not waited for long');
    ok(ask('volume_snapshot_info', $disk)->{late}, 'though the snapshot is there');
    ask('volume_snapshot_delete', $disk, 'late', 0);
}
isnt($snaps->{clean}->{id}, $snaps->{'Before_Update-2'}->{id}, 'each with an id');
is($snaps->{clean}->{'virtual-size'}, 96 << 20, 'and its size');
holds($disk, 11, 'path() of a snapshot', 'clean');
ask('activate_volume', $disk, 'clean', {});
refuses('a snapshot twice', qr/exists/, sub { ask('volume_snapshot', $disk, 'clean') });
refuses('an odd name of a snapshot', qr/characters/, sub { ask('volume_snapshot', $disk, 'a b') });
refuses('a rollback to none', qr/snapshot 'none' does not exist/, sub { roll_back($disk, 'none') });
refuses('activating none', qr/snapshot 'none'/, sub { ask('activate_volume', $disk, 'none', {}) });
refuses('another name for one', qr/cannot be renamed/, sub { ask('rename_snapshot', $disk, 'clean', 'b') });
is(ask('volume_rollback_is_possible', $disk, 'clean', my $blockers = []), 1, 'a rollback past a newer one');
is_deeply($blockers, [], 'which is not in the way');
roll_back($disk, 'clean');
holds($disk, 11, 'rolled back');
roll_back($disk, 'Before_Update-2');
holds($disk, 22, 'and forward');
ask('volume_snapshot_delete', $disk, 'Before_Update-2', 0);
is(join(' ', keys ask('volume_snapshot_info', $disk)->%*), 'clean', 'a snapshot deleted');
is_deeply(ask('volume_snapshot_info', 'wl:vm-100-disk-7'), {}, 'snapshots of nothing are none');

# ---- templates and clones ---------------------------------------------------------------------------------------

my $of_snap = PVE::Storage::vdisk_clone($cfg, $disk, 102, 'clean');
is($of_snap, 'wl:vm-102-disk-0', 'a clone of a snapshot');
is(PVE::Storage::vdisk_list($cfg, 'wl', 102)->[0]->{parent}, 'vm-100-disk-0@clean', 'of which the list tells');
holds($of_snap, 11, 'it holds what the snapshot does');
refuses('deleting the snapshot under it', qr/clone|need/, sub { ask('volume_snapshot_delete', $disk, 'clean', 0) });
free($of_snap);
ask('volume_snapshot_delete', $disk, 'clean', 0);

refuses('a linked clone of a disk', qr/not a base image/, sub { PVE::Storage::vdisk_clone($cfg, $disk, 101) });
my $base = PVE::Storage::vdisk_create_base($cfg, $disk);
is($base, 'wl:base-100-disk-0', 'a template');
refuses('a template of it', qr/base image/, sub { PVE::Storage::vdisk_create_base($cfg, $base) });
is(eval { fill($base, 1); 1 }, undef, 'nobody writes to it');
my $linked = PVE::Storage::vdisk_clone($cfg, $base, 101);
is($linked, 'wl:base-100-disk-0/vm-101-disk-0', 'a linked clone');
holds($linked, 22, 'it holds what the template does');
fill($linked, 44);
holds($base, 22, 'and what it writes is its own');
is((ask('volume_size_info', $linked))[3], 'base-100-disk-0@__base__', 'its parent');
is(volids(101), $linked, 'listed with its template');
refuses('freeing a template with clones', qr/still in use by linked clones/, sub { free($base) });
refuses('the same, past PVE\'s look',
    qr/clone|need/, sub { $PLUGIN->free_image('wl', $scfg, 'base-100-disk-0', 'base') });
is(eval { fill($base, 1); 1 }, undef, 'still nobody writes to it');
my $second = PVE::Storage::vdisk_create_base($cfg, $linked);
is($second, 'wl:base-100-disk-0/base-101-disk-0', 'a linked clone that becomes a template');
my $third = PVE::Storage::vdisk_clone($cfg, $second, 103);
is($third, 'wl:base-101-disk-0/vm-103-disk-0', 'and has a linked clone');
holds($third, 44, 'which holds what it does');

is(ask('rename_volume', $third, 104, undef), 'wl:base-101-disk-0/vm-104-disk-0', 'renamed for another VM');
$third = ask('rename_volume', 'wl:base-101-disk-0/vm-104-disk-0', 105, 'vm-105-disk-3');
is(volids(105), $third, 'and to a name');
refuses('renamed to one that is there', qr/exists/, sub { ask('rename_volume', $third, 100, 'vm-100-disk-1') });
refuses('renamed to another VM\'s', qr/illegal name/, sub { ask('rename_volume', $third, 105, 'vm-100-disk-9') });

my %features = (
    'vm' => ['vm-1-a', undef, 'copy rename snapshot sparseinit template'],
    'template' => ['base-1-a', undef, 'clone copy sparseinit'],
    'snapshot' => ['vm-1-a', 's', 'clone copy snapshot'],
);
for my $of (sort keys %features) {
    my ($volname, $snap, $has) = $features{$of}->@*;
    my @has = grep { $PLUGIN->volume_has_feature($scfg, $_, 'wl', $volname, $snap, 0) }
        qw(clone copy rename replicate snapshot sparseinit template);
    is("@has", $has, "features of a $of");
}
is(ask('volume_snapshot_needs_fsfreeze', $base), 0, 'no fsfreeze');
is($PLUGIN->volume_qemu_snapshot_method('wl', $scfg, 'vm-1-a'), 'storage', 'who takes snapshots of running guests');

# ---- streams ----------------------------------------------------------------------------------------------------

my @query = (undef, undef, 0);
is_deeply([ask('volume_export_formats', $third, @query)], ['raw+size'], 'format of exports');
is_deeply([ask('volume_import_formats', $third, undef, 'base', 0)], [], 'none that is incremental');
is_deeply([ask('volume_export_formats', $third, undef, undef, 1)], [], 'none with snapshots');
ask('volume_snapshot', $third, 'Sent');
fill($third, 55);
my $stream = "$tmp/stream";
for my $case ([undef, 55, 'vm-106-disk-0'], ['Sent', 44, 'vm-106-disk-1']) {
    my ($snap, $byte, $name) = @$case;
    open(my $out, '>', $stream) or die $!;
    $PLUGIN->volume_export($scfg, 'wl', $out, ($third =~ m/^wl:(.*)/)[0], 'raw+size', $snap, undef, 0);
    close($out);
    is(-s $stream, 8 + (96 << 20), 'exported' . ($snap ? ': a snapshot' : ''));
    open(my $in, '<', $stream) or die $!;
    is($PLUGIN->volume_import($scfg, 'wl', $in, $name, 'raw+size', undef, undef, 0, 0), "wl:$name", 'imported');
    holds("wl:$name", $byte, 'with what it held');
}
{
    open(my $in, '<', $stream) or die $!;
    my @args = ($scfg, 'wl', $in, 'vm-106-disk-0', 'raw+size', undef, undef, 0);
    refuses('an import over a disk', qr/already exists/, sub { $PLUGIN->volume_import(@args, 0) });
    local $SIG{__WARN__} = sub { like($_[0], qr/importing with a different name/, 'warned of') };
    is($PLUGIN->volume_import(@args, 1), 'wl:vm-106-disk-2', 'or by another name');
    refuses('an import of qcow2', qr/'qcow2\+size' is not available/,
        sub { $PLUGIN->volume_import($scfg, 'wl', $in, 'vm-106-x', 'qcow2+size', undef, undef, 0, 0) });
}
{
    # As ssh brings it, and of a size that is no multiple of a sector.
    my $bytes = (1 << 20) + 100;
    my $pid = open(my $in, '-|') // die $!;
    if (!$pid) {
        my $left = pack('Q<', $bytes) . "\x58" x $bytes;
        while (length($left)) {
            syswrite(STDOUT, substr($left, 0, 8 + int(rand(9000)), ''));
        }
        require POSIX;
        POSIX::_exit(0);
    }
    my $volid = $PLUGIN->volume_import($scfg, 'wl', $in, 'vm-106-odd', 'raw+size', undef, undef, 0, 0);
    is($volid, 'wl:vm-106-odd', 'an import in odd pieces');
    is(ask('volume_size_info', 'wl:vm-106-odd') + 0, (1 << 20) + 1024, 'rounded up');
    my $path = path_of('wl:vm-106-odd');
    like(output('qemu-io', '-r', '-f', 'raw', '-c', 'read -P 88 0 1048676', '-c', 'read -P 0 1048676 924', $path),
        qr/\A(?!.*verification failed).*read 924/s, 'with what was sent, then zeros');
}
{
    open(my $cut, '<', '/dev/null') or die $!;
    refuses('an import of nothing', qr/no size/, sub {
        $PLUGIN->volume_import($scfg, 'wl', $cut, 'vm-106-y', 'raw+size', undef, undef, 0, 0);
    });
}

# ---- QEMU -------------------------------------------------------------------------------------------------------

# What runs, by process id: ended when the tour is, however it ends.
my %started;

END {
    my $rc = $?;
    kill('KILL', $_) && waitpid($_, 0) for keys %started;
    $? = $rc;
}

# A QEMU whose guest stands still, and its QMP.
sub start_qemu {
    my ($vmid, @args) = @_;

    my $socket = "$tmp/qmp-$vmid";
    my @cmd = ('qemu-system-x86_64', '-M', 'q35', '-accel', 'tcg', '-m', '64', '-nodefaults', '-display', 'none', '-S',
        '-qmp', "unix:$socket,server=on,wait=off", '-pidfile', "$tmp/$vmid.pid", @args);
    my $pid = fork() // die $!;
    if (!$pid) {
        exec { $cmd[0] } @cmd or die "$cmd[0]: $!\n";
    }
    $started{$pid} = 1;
    my $until = time() + 15;
    my $qmp;
    until (-s "$tmp/$vmid.pid" && ($qmp = IO::Socket::UNIX->new(Peer => $socket))) {
        die "QEMU does not start\n" if time() > $until || waitpid($pid, 1) != 0;
        sleep(0.05);
    }
    <$qmp>;
    $PVE::QemuServer::Monitor::MONITOR{$vmid} = $qmp;
    PVE::QemuServer::Monitor::mon_cmd($vmid, 'qmp_capabilities');
    return $pid;
}

sub end_qemu {
    my ($pid) = @_;

    kill('KILL', $pid);
    waitpid($pid, 0);
    delete $started{$pid};
    return;
}

my $live = alloc(200, 'raw', undef, 64 * 1024);
my ($blockdev, $dropped) = PVE::Storage::qemu_blockdev_options($cfg, $live, {});
is_deeply($dropped, [], 'PVE lets all of qemu_blockdev_options() pass');
is(JSON::PP->new->canonical->encode($blockdev),
    qq({"driver":"nbd","export":"$pool/vm-200-disk-0","reconnect-delay":60,)
        . qq("server":{"path":"$home/nbd.sock","type":"unix"}}), 'as JSON');
my ($of_snapshot) = PVE::Storage::qemu_blockdev_options($cfg, $third, { 'snapshot-name' => 'Sent' });
is($of_snapshot->{export}, "$pool/vm-105-disk-3\@0.sent", 'of a snapshot');
like(output('qemu-io', '-r', '--image-opts', '-c', 'read -P 44 0 1M',
    "driver=nbd,server.type=unix,server.path=$of_snapshot->{server}->{path},export=$of_snapshot->{export}"),
    qr/read 1048576/, 'which QEMU reads');

SKIP: {
    skip('qemu-system-x86_64 is not installed', 20) if !grep { -x "$_/qemu-system-x86_64" } split(/:/, $ENV{PATH});
    no warnings 'once';
    local $PVE::Storage::Custom::WindlassPlugin::QEMU_RUN = $tmp;
    local $PVE::Storage::Custom::WindlassPlugin::UNUSED_WITHIN = 2;

    my $monitor = sub { PVE::QemuServer::Monitor::mon_cmd(200, @_) };

    # As qemu-server of PVE 9 builds it for a machine of version 10: throttle over the format over ours.
    my $drive = encode_json({
        driver => 'throttle',
        'throttle-group' => 'throttle-drive-scsi0',
        'node-name' => 'drive-scsi0',
        file => { driver => 'raw', 'node-name' => 'f0', 'detect-zeroes' => 'on', file => $blockdev },
    });
    # With `share-rw` qemu-io can write beside the guest.
    my $pid = start_qemu(200, '-object', 'throttle-group,id=throttle-drive-scsi0', '-blockdev', $drive,
        '-device', 'virtio-scsi-pci,id=s', '-device', 'scsi-hd,bus=s.0,drive=drive-scsi0,share-rw=on');
    my $io = sub {
        my $said = $monitor->('human-monitor-command', 'command-line' => qq(qemu-io drive-scsi0 "$_[0]"));
        is($said, '', "QEMU: $_[0]");
    };
    $io->('write -P 66 0 1M');
    refuses('a rollback under a guest', qr/connected/, sub { roll_back($live, 'none-yet') })
        if eval { ask('volume_snapshot', $live, 'none-yet'); 1 };
    refuses('freeing under a guest', qr/connected/, sub { free($live) });
    refuses('deactivating under a guest', qr/connected/, sub { ask('deactivate_volume', $live) });

    my $began = time();
    ask('volume_resize', $live, 128 << 20, 1);
    diag(sprintf('resize with the guest on: %.1f s', time() - $began));
    my $taken = eval { $monitor->('block_resize', 'node-name' => 'drive-scsi0', size => 128 << 20); 1 };
    diag("block_resize: $@") if !$taken;
    ok($taken, 'QEMU takes the new size with the guest on');
    $io->('write -P 77 100M 1M');
    end_qemu($pid);
    ask('deactivate_volume', $live);
    pass('deactivated just after QEMU has ended');
    like(output('qemu-io', '-r', '-f', 'raw', '-c', 'read -P 77 100M 1M', path_of($live)),
        qr/read 1048576/, 'what was written above the old end');

    # A disk moved under its guest.
    my $moved = alloc(200, 'raw', undef, 128 * 1024);
    $pid = start_qemu(200, '-object', 'throttle-group,id=throttle-drive-scsi0', '-blockdev', $drive,
        '-device', 'virtio-scsi-pci,id=s', '-device', 'scsi-hd,bus=s.0,drive=drive-scsi0,share-rw=on');
    my ($target) = PVE::Storage::qemu_blockdev_options($cfg, $moved, {});
    $monitor->('blockdev-add', %$target, 'node-name' => 'target');
    $monitor->('blockdev-mirror', 'job-id' => 'mirror', device => 'drive-scsi0', target => 'target', sync => 'full');
    for (1 .. 200) {
        last if $monitor->('query-block-jobs')->[0]->{ready};
        sleep(0.05);
    }
    $monitor->('block-job-complete', device => 'mirror');
    for (1 .. 200) {
        last if !$monitor->('query-block-jobs')->@*;
        sleep(0.05);
    }
    end_qemu($pid);
    ask('deactivate_volume', $moved);
    like(output('qemu-io', '-r', '-f', 'raw', '-c', 'read -P 77 100M 1M', path_of($moved)),
        qr/\A(?!.*failed).*read 1048576/s, 'a disk is moved under its guest (blockdev-mirror)');

    # As PVE 8, and PVE 9 for machines of an older version.
    $pid = start_qemu(200, '-drive', 'file=' . path_of($live)
            . ',if=none,id=drive-scsi0,format=raw,cache=none,aio=io_uring,detect-zeroes=on',
        '-device', 'virtio-scsi-pci,id=s', '-device', 'scsi-hd,bus=s.0,drive=drive-scsi0,id=scsi0');
    pass('QEMU takes path() as -drive');
    # PVE's own QEMU has `zeroinit:` in front of the target for the same.
    my $to = path_of(alloc(200, 'raw', undef, 128 * 1024));
    my @convert = qw(qemu-img convert -n --target-is-zero -f raw -O raw);
    ok(eval { output(@convert, path_of($moved), $to); 1 }, 'qemu-img convert, as a full clone does');
    is(output('qemu-img', 'compare', path_of($moved), $to), "Images are identical.\n",
        'makes it equal');
    refuses('a new size under it', qr/shut it down/, sub { ask('volume_resize', $live, 256 << 20, 1) });
    end_qemu($pid);
    $pid = start_qemu(200, '-drive', 'if=pflash,unit=0,format=raw,file=' . path_of('wl:vm-100-disk-1'));
    pass('and one for the variables of EFI');
    end_qemu($pid);
    roll_back($live, 'none-yet');
    pass('a rollback just after QEMU has ended');
    ask('volume_snapshot_delete', $live, 'none-yet', 0);
}

# ---- volumes as devices -----------------------------------------------------------------------------------------

sub on_device {
    my ($device, $mode, $bytes) = @_;

    open(my $fh, $mode, $device) or return "open: $!";
    my $read = '';
    return sysread($fh, $read, $bytes) ? $read : "read: $!" if $mode eq '<';
    return syswrite($fh, $bytes) && close($fh) ? 'done' : "write: $!";
}

SKIP: {
    skip('there is no usable /dev/fuse', 12) if $> != 0 || !-c '/dev/fuse' || !-r _;
    no warnings 'once';
    local $PVE::Storage::Custom::WindlassPlugin::MAPPED = "$tmp/mapped";
    my $file = "$tmp/mapped/" . $home =~ tr!/!%!r . "/$pool/vm-300-disk-0";
    my $tpm = alloc(300, 'raw', undef, 4096);
    my $device = ask('map_volume', $tpm);
    like($device, qr!^/dev/loop\d+\z!, 'a volume as a device');
    is(output('blockdev', '--getsize64', $device) + 0, 4 << 20, 'of its size');
    is(ask('map_volume', $tpm), $device, 'once more: the same');
    is(on_device($device, '+<', 'state'), 'done', 'written');
    ask('volume_snapshot', $tpm, 'On');
    is(on_device($device, '+<', 'STATE'), 'done', 'and again');
    my $of_snap = ask('map_volume', $tpm, 'On');
    is(on_device($of_snap, '<', 5), 'state', 'its snapshot as a device');
    like(on_device($of_snap, '+<', 'x'), qr/^(?:open|write): /, 'which nobody writes to');
    ask('deactivate_volume', $tpm, 'On');
    ok(!-e "$file\@0.on" && -e $file, 'gone with its deactivation');
    ask('unmap_volume', $tpm);
    ok(!-e $file, 'unmapped');
    is(on_device(ask('map_volume', $tpm), '<', 5), 'STATE', 'mapped again, with what was written');
    ask('deactivate_volume', $tpm);
    ok(!-e $file, 'gone with the deactivation');
    unlike(output(qw(losetup --list --noheadings --output BACK-FILE)), qr/\Q$file\E/, 'and no loop device left');
}

# ---- gone again -------------------------------------------------------------------------------------------------

for my $volid ($third, $second, map { $_->{volid} } PVE::Storage::vdisk_list($cfg, 'wl')->@*) {
    next if $volid eq $base || volids(undef, [$volid]) eq '';
    free($volid);
}
free($base);
is(volids(), '', 'all are freed, a template last');
refuses('freeing what is not there', qr/vm-100-disk-0/, sub { free($disk) });
is($PLUGIN->deactivate_storage('wl', $scfg), 1, 'the storage is deactivated');

done_testing();
