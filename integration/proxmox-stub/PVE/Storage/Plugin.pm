# Stands in for PVE::Storage::Plugin. What PVE's own does for plugins without files of their own is here in its terms:
# properties, storage.cfg, free names, the header of streams. Whatever a plugin must bring itself dies, by name.
package PVE::Storage::Plugin;

use strict;
use warnings;

use PVE::Tools;

# Properties that PVE or its own plugins define. To define one twice is an error.
my %properties = map { $_ => {} } qw(type storage nodes content disable shared format bwlimit pool path username server);
my (%plugins, %data);

sub register {
    my ($class) = @_;

    my $type = $class->type();
    die "duplicate plugin registration (type = $type)\n" if $plugins{$type};
    $plugins{$type} = $class;
    $data{$type} = $class->plugindata();
    return;
}

sub init {
    for my $type (sort keys %plugins) {
        my $more = $plugins{$type}->properties();
        for my $name (sort keys %$more) {
            die "duplicate property '$name'" if $properties{$name};
            die "property '$name' has no type" if !$more->{$name}->{type};
            $properties{$name} = $more->{$name};
        }
        for my $name (sort keys $plugins{$type}->options()->%*) {
            die "undefined property '$name'" if !$properties{$name};
        }
    }
    return;
}

sub lookup {
    my ($class, $type) = @_;
    return $plugins{ $type // '' } // die "unknown section type '$type'\n";
}

# storage.cfg: a section `TYPE: ID` and its properties, a line each.
sub parse_config {
    my ($class, $raw) = @_;

    my ($ids, $section) = ({}, undef);
    for my $line (split(/\n/, $raw)) {
        if ($line =~ m/^(\S+):\s*(\S+)\s*$/) {
            $section = $ids->{$2} = { type => $1 };
            $section->{content} = { $data{$1}->{content}->[1]->%* };
        } elsif ($line =~ m/^\s+(\S+)(?:\s+(.*\S))?\s*$/) {
            my ($name, $value) = ($1, $2 // 1);
            die "unexpected property '$name'\n" if !$class->lookup($section->{type})->options()->{$name};
            my $pattern = $properties{$name}->{pattern};
            die "$name: value does not match the regex pattern\n" if defined($pattern) && $value !~ m/^$pattern$/;
            $value = { map { $_ => 1 } PVE::Tools::split_list($value) } if $name eq 'content' || $name eq 'nodes';
            $section->{$name} = $value;
        } elsif ($line =~ m/\S/) {
            die "ignore malformed line: $line\n";
        }
    }
    for my $id (sort keys %$ids) {
        my $options = $class->lookup($ids->{$id}->{type})->options();
        for my $name (sort keys %$options) {
            die "$id: missing value for required option '$name'\n"
                if !$options->{$name}->{optional} && !defined($ids->{$id}->{$name});
        }
        my $possible = $data{ $ids->{$id}->{type} }->{content}->[0];
        for my $content (sort keys $ids->{$id}->{content}->%*) {
            die "storage does not support content type '$content'\n" if !$possible->{$content};
        }
    }
    return { ids => $ids };
}

sub parse_volume_id {
    my ($volid) = @_;

    return ($1, $2) if $volid =~ m/^([a-z][a-z0-9\-\_\.]*[a-z0-9]):(.+)$/i;
    die "unable to parse volume ID '$volid'\n";
}

sub get_formats {
    my ($class, $scfg, $storeid) = @_;

    my $format = $data{ $scfg->{type} }->{format};
    return { default => $format->[1], valid => { $format->[0]->%* } };
}

sub find_free_diskname {
    my ($class, $storeid, $scfg, $vmid, $fmt) = @_;

    my %taken = map { m/(?:vm|base)-\Q$vmid\E-disk-(\d+)$/ ? ($1 => 1) : () }
        map { $_->{volid} } $class->list_images($storeid, $scfg, $vmid)->@*;
    my $number = 0;
    $number++ while $taken{$number};
    return "vm-$vmid-disk-$number";
}

sub write_common_header {
    my ($fh, $size) = @_;
    return syswrite($fh, pack('Q<', $size), 8);
}

sub read_common_header {
    my ($fh) = @_;

    sysread($fh, my $size, 8);
    return unpack('Q<', $size) // die "import: no size found in export header, aborting.\n";
}

for my $name (
    qw(type plugindata options api parse_volname path filesystem_path create_base clone_image alloc_image free_image
    list_images status activate_storage deactivate_storage map_volume unmap_volume activate_volume deactivate_volume
    check_connection volume_size_info volume_resize volume_snapshot volume_snapshot_rollback volume_rollback_is_possible
    volume_snapshot_delete volume_snapshot_info volume_snapshot_needs_fsfreeze volume_has_feature volume_export
    volume_export_formats volume_import volume_import_formats rename_volume rename_snapshot qemu_blockdev_options
    volume_qemu_snapshot_method get_identity)
) {
    no strict 'refs';    ## no critic
    *$name = sub { die "the plugin has no $name of its own\n" };
}

sub properties {
    return {};
}

1;
