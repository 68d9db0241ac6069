# Builds the modules of Debian's zfs-dkms for the kernel $1, inside a tree of Debian's packages.
# Nothing was installed there, so the links that packages make when they are configured are made
# here.
set -e
release=$1
export PATH=/usr/sbin:/usr/bin LC_ALL=C HOME=/tmp
ln -sf mawk /usr/bin/awk
compiler=$(basename "$(ls /usr/bin/gcc-[0-9]* | head -n 1)")
ln -sf "$compiler" /usr/bin/gcc
ln -sf "$compiler" /usr/bin/cc
cd /usr/src/zfs-[0-9]*
# As dkms.conf says.
./configure --disable-dependency-tracking --prefix=/usr --with-config=kernel \
	--with-linux="/lib/modules/$release/source" \
	--with-linux-obj="/lib/modules/$release/build"
make -j"$(nproc)"
mkdir -p /built
for module in module/spl.ko module/zfs.ko; do
	strip --strip-debug -o "/built/$(basename $module)" "$module"
done
