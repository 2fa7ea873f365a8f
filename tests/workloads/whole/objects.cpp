// What C++ programs do: exceptions through frames with destructors, virtual calls, std::sort, maps, std::function,
// threads.
#include <algorithm>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#define KEPT __attribute__((noinline, noclone))

static volatile unsigned long sink;
static volatile bool forever = true;

namespace shapes {
struct Shape {
    virtual ~Shape() = default;
    virtual unsigned long area(unsigned long turns) const = 0;
};

struct Square : Shape {
    KEPT unsigned long area(unsigned long turns) const override {
        unsigned long sum = 1;
        for (unsigned long i = 0; i < turns; i++)
            sum += i ^ sink;
        return sum;
    }
};

struct Circle : Shape {
    KEPT unsigned long area(unsigned long turns) const override {
        unsigned long sum = 2;
        for (unsigned long i = 0; i < turns; i++)
            sum ^= i + sink;
        return sum;
    }
};
}  // namespace shapes

KEPT static void virtual_calls(const std::vector<std::unique_ptr<shapes::Shape>> &all) {
    for (int i = 0; i < 20; i++)
        for (const auto &shape : all)
            sink = sink + shape->area(30000);
}

KEPT static void sorting(const std::vector<unsigned> &numbers) {
    auto copy = numbers;
    std::sort(copy.begin(), copy.end(), [](unsigned a, unsigned b) { return a % 1000 < b % 1000; });
    std::stable_sort(copy.begin(), copy.end());
    sink = sink + copy[0];
}

KEPT static void maps(const std::vector<unsigned> &numbers) {
    std::map<std::string, unsigned> map;
    for (unsigned number : numbers)
        map["key " + std::to_string(number % 100)] += number;
    std::function<void(unsigned)> add = [&](unsigned n) { sink = sink + n + map.size(); };
    for (unsigned number : numbers)
        add(number);
}

struct Guard {
    std::string text;
    explicit Guard(int depth) : text(40, static_cast<char>('a' + depth)) {}
    KEPT ~Guard() { sink = sink + text.size(); }
};

KEPT static void deep_throw(int depth) {
    Guard guard(depth);
    if (depth == 0)
        throw std::runtime_error("at the bottom");
    deep_throw(depth - 1);
    sink = sink + 1;
}

KEPT static void exceptions() {
    for (int i = 0; i < 50; i++) {
        try {
            deep_throw(10);
        } catch (const std::exception &error) {
            sink = sink + error.what()[0];
        }
    }
}

KEPT static void work() {
    std::mt19937 random(1);
    std::vector<unsigned> numbers(3000);
    std::generate(numbers.begin(), numbers.end(), random);
    std::vector<std::unique_ptr<shapes::Shape>> all;
    all.push_back(std::make_unique<shapes::Square>());
    all.push_back(std::make_unique<shapes::Circle>());
    while (forever) {
        virtual_calls(all);
        sorting(numbers);
        maps(numbers);
        exceptions();
    }
    sink = sink + 1;
}

int main() {
    std::puts("READY");
    std::fflush(stdout);
    std::thread worker(work);
    work();
    worker.join();
    return static_cast<int>(sink);
}
